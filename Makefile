# make demo   synthetic data, training with only 3 labelled patients and with unlabelled ones too, tests, a page that compares them
# make test   style, types and tests
# make test-all   the long tests too
# make test-lowest   tests with the lowest versions that requirements.txt allows, in an environment of their own
# make test-trackers   the loggers wandb and mlflow, offline, in an environment of their own
# make test-gpu   what only an NVIDIA GPU can show
# make docs   the guides as a web site, site/index.html
PYTHON ?= python3
PY := .venv/bin/python
LOWEST := .venv-lowest
TRACKERS := .venv-trackers
DEMO := demo
DOCS := .venv-docs

.PHONY: demo test test-all test-lowest test-trackers test-gpu docs clean-demo

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

.venv/ready-to-test: .venv/ready requirements-test.txt
	$(PY) -m pip install --quiet -r requirements-test.txt
	touch $@

test: .venv/ready-to-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --dist worksteal

test-all: test
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --dist worksteal -m "long and not cuda"

$(LOWEST)/ready: requirements.txt
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	sed -E 's/[[:space:]]*#.*//; s/>=/==/' requirements.txt | grep == >$(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet -r requirements.txt -c $(LOWEST)/constraints.txt
	touch $@

# every script's --help, preparation, DICOM, metrics, statistics, and own scans from preparation and training to test, registration and prediction
LOWEST_TESTS := tests/test_architecture.py tests/test_preparation.py tests/test_dicom.py tests/test_metrics.py tests/test_comparison.py tests/test_own_training.py

test-lowest: $(LOWEST)/ready
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n auto --dist worksteal $(LOWEST_TESTS)

$(TRACKERS)/ready: requirements.txt
	$(PYTHON) -m venv $(TRACKERS)
	$(TRACKERS)/bin/python -m pip install --quiet -r requirements.txt wandb mlflow-skinny
	touch $@

test-trackers: $(TRACKERS)/ready
	OMP_NUM_THREADS=1 $(TRACKERS)/bin/python -m pytest -q tests/test_trackers.py

test-gpu: .venv/ready
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 4 --dist worksteal -m cuda

$(DOCS)/ready: requirements-docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet -r requirements-docs.txt
	touch $@

docs: $(DOCS)/ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict
	@echo "open site/index.html in a browser"

WHERE := --root_path $(DEMO)/data --output_root $(DEMO)/model
RUN := $(WHERE) --egm none --patch_size 80 80 --batch_size 8 --labeled_bs 4 --pre_iterations 200 --max_iterations 1000 --val_every 100
RUNS := $(DEMO)/model/BCP/ACDC

demo: .venv/ready
	$(PY) code/make_phantom.py --dataset ACDC --val 12 --test 18 --root $(DEMO)/data
	@echo "two runs side by side; messages of the one with only labelled patients are in $(DEMO)/only_labelled.log"
	OMP_NUM_THREADS=1 $(PY) code/ACDC_labelnum3_train.py --exp only_labelled --method supervised $(RUN) >$(DEMO)/only_labelled.log 2>&1 & \
	OMP_NUM_THREADS=1 $(PY) code/ACDC_labelnum3_train.py --exp with_unlabelled --method averaged_copy_paste $(RUN); status=$$?; \
	wait $$! || { tail -n 1 $(DEMO)/only_labelled.log; exit 2; }; exit $$status
	$(PY) code/test_ACDC.py --labelnum 3 --exp only_labelled $(WHERE)
	$(PY) code/test_ACDC.py --labelnum 3 --exp with_unlabelled $(WHERE)
	$(PY) code/compare.py $(RUNS)_only_labelled_3_labeled $(RUNS)_with_unlabelled_3_labeled \
		--names "only labelled patients" "with 17 unlabelled ones" --output report
	@echo "open report/index.html in a browser    TensorBoard: .venv/bin/tensorboard --logdir $(DEMO)/model"

clean-demo:
	rm -rf $(DEMO) report/index.html report/compare.json

# make demo   synthetic data, training with 3 labelled patients, test, a page to look at (5 to 11 minutes on 2 CPU cores)
# make test   style and tests
# make test-all   the long tests too
PYTHON ?= python3
PY := .venv/bin/python
DEMO := demo

.PHONY: demo test test-all clean-demo

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

test: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --dist worksteal

test-all: test
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --dist worksteal -m long

demo: .venv/ready
	$(PY) code/make_phantom.py --dataset ACDC --root $(DEMO)/data
	$(PY) code/ACDC_labelnum3_train.py --root_path $(DEMO)/data --output_root $(DEMO)/model \
		--patch_size 80 80 --batch_size 8 --labeled_bs 4 --pre_iterations 250 --max_iterations 650 --val_every 50 \
		--static_start 100 --static_step 50 --static_range 50 200
	$(PY) code/test_ACDC.py --labelnum 3 --root_path $(DEMO)/data --output_root $(DEMO)/model
	$(PY) code/report.py --labelnum 3 --root_path $(DEMO)/data --output_root $(DEMO)/model --output report
	@echo "open report/index.html in a browser    TensorBoard: .venv/bin/tensorboard --logdir $(DEMO)/model"

clean-demo:
	rm -rf $(DEMO) report/index.html report/report.json

# FewLabels with its test environment.
#
#   docker build -t fewlabels .                               # CPU
#   docker build -t fewlabels --build-arg DEVICE=cuda .       # CUDA
#   docker run --rm --shm-size 1g fewlabels make demo
#   docker run --rm --shm-size 1g --gpus all -v "$PWD/data:/data" fewlabels \
#       python code/train.py --dataset ACDC --root_path /data/ACDC --output_root /data/model
FROM python:3.11-slim

ARG DEVICE=cpu

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 user \
    && install --directory --owner=1000 --group=1000 /home/user/fewlabels

USER 1000
WORKDIR /home/user/fewlabels
ENV PATH="/home/user/fewlabels/.venv/bin:$PATH" \
    PIP_NO_CACHE_DIR=1

# The requirements come first, so that a change of the code does not install them again.
COPY --chown=1000:1000 requirements.txt Makefile ./
RUN python3 -m venv .venv \
    && if [ "$DEVICE" = cpu ]; then \
        pip install "$(grep '^torch==' requirements.txt)" \
            --index-url https://download.pytorch.org/whl/cpu; \
    fi \
    && make .venv/ready

COPY --chown=1000:1000 . .
# the copy gives requirements.txt a new time
RUN touch .venv/ready

CMD ["make", "demo"]

# petlbench for a machine with an NVIDIA GPU, from the tested versions in requirements.lock.
# This file has not been built or run on a GPU yet. torch's wheels bring CUDA's libraries; the
# machine needs the driver (CUDA 13) and the NVIDIA container toolkit.
#
#     docker build -t petlbench .
#     docker run --rm --gpus all --shm-size 8g -v "$PWD/results:/data/results" petlbench -m method=lora,dtl dataset=mini seed=0,1,2
#     docker run --rm --entrypoint python petlbench -m petlbench.report --help
FROM python:3.11-slim

# a C compiler: Triton and torch.compile build kernels when they run
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

COPY requirements.lock /tmp/
RUN pip install --no-cache-dir --no-deps -r /tmp/requirements.lock

COPY . /src
RUN pip install --no-cache-dir --no-deps /src && rm -rf /src

# root of results, data and caches; mount it
WORKDIR /data
ENV PETLBENCH_CACHE=/data/cache PETLBENCH_DATA=/data HF_HOME=/data/huggingface
ENTRYPOINT ["python", "-m", "petlbench"]

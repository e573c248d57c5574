# docker build -t ssmrl .                             for CPUs
# docker build -t ssmrl --build-arg EXTRAS=all,cuda . for NVIDIA GPUs; run it with --gpus all
# docker run --rm -v "$PWD/runs:/work/runs" ssmrl train memory=s5 env=popgym/repeat_previous_easy
FROM python:3.12-slim

# CUDA's libraries come as wheels of jax; the host needs the driver and its container toolkit alone.
ARG EXTRAS=all

WORKDIR /opt/ssmrl
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY configs configs
COPY benchmarks/published benchmarks/published
COPY ssmrl ssmrl
RUN pip install --no-cache-dir --constraint constraints/python3.12.txt ".[$EXTRAS]"

WORKDIR /work
ENTRYPOINT ["ssmrl"]
CMD ["--help"]

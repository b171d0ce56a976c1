# distil_ray with all that it needs: for one machine, for the nodes of a Ray cluster, for KubeRay (docs/install.md).
#
#   docker build -t distil-ray .                                                       CPU
#   docker build -t distil-ray --build-arg TORCH_INDEX=https://pypi.org/simple .       CUDA: PyPI's torch is the CUDA build
#
# The GPU driver comes from the host (NVIDIA container toolkit); CUDA's libraries come with torch.

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=demo,vad

# gcc: Triton compiles its launcher at run time. tini: forwards signals and reaps Ray's processes. wget: KubeRay's probes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray

COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --index-url "${TORCH_INDEX}" --extra-index-url https://pypi.org/simple \
    "$(grep '^torch==' /tmp/constraints.txt)"

COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt "$(echo /wheels/distil_ray-*.whl)[${EXTRAS}]" 'ray[data,default]' \
    && distil-ray --version

USER 1000
WORKDIR /home/ray
# The folder of downloaded weights; mount a volume here to keep them.
RUN mkdir -p /home/ray/.cache/distil_ray
ENV PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0

ENTRYPOINT ["tini", "--", "distil-ray"]
CMD ["--help"]

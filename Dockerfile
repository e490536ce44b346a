# Images of the Coresift server.
#
#   docker build -t coresift .                    on CPUs (the last stage)
#   docker build -t coresift:gpu --target gpu .   on NVIDIA GPUs, with a driver for CUDA 13
#
#   docker run --read-only -v coresift:/data -v "$PWD/out/pool:/pool:ro" \
#     -v "$PWD/secrets:/secrets:ro" -e CORESIFT_TLS_CERT=/secrets/tls.crt \
#     -e CORESIFT_TLS_KEY=/secrets/tls.key -p 50051:50051 coresift
#
# It writes to /data alone: state, artifacts, uploads under way. Nearly every option of `coresift serve` can come
# from the environment. What is built lies in deploy/container, and runs without Docker as well.

# A patch release of Python. The tag still moves with Debian's fixes; where that may not be, add
# the digest that your registry shows: --build-arg PYTHON_IMAGE=python:3.12.13-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.12.13-slim-bookworm
# fsspec's drivers of the object stores that hold pools and artifacts; others: gcsfs, adlfs.
ARG DRIVERS=s3fs


FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY proto proto
COPY server server
COPY client client
COPY deploy/container deploy/container
RUN --mount=type=cache,target=/root/.cache/pip \
    deploy/container/build_wheel.sh /wheels


FROM ${PYTHON_IMAGE} AS install-cpu
# PyTorch's own builds without CUDA: 190 MB instead of 3 GB.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG DRIVERS
WORKDIR /src
COPY constraints.txt ./
COPY deploy/container deploy/container
COPY --from=wheel /wheels /wheels
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" \
    deploy/container/install.sh cpu /wheels /opt/coresift "${DRIVERS}"


FROM ${PYTHON_IMAGE} AS install-gpu
ARG DRIVERS
WORKDIR /src
COPY constraints.txt ./
COPY deploy/container deploy/container
COPY --from=wheel /wheels /wheels
RUN --mount=type=cache,target=/root/.cache/pip \
    deploy/container/install.sh gpu /wheels /opt/coresift "${DRIVERS}"


FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="Coresift" \
      org.opencontainers.image.description="What to label next, and what to keep: active learning and core-set selection as a service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# Health has a port of its own, which stays plain when gRPC has TLS: probes show no certificate.
# A public address without TLS is refused; CORESIFT_ALLOW_PLAINTEXT=1 is for private networks.
ENV PATH=/opt/coresift/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/data \
    TMPDIR=/data \
    PYTHONDONTWRITEBYTECODE=1 \
    CORESIFT_LISTEN=0.0.0.0:50051 \
    CORESIFT_HEALTH_LISTEN=0.0.0.0:50052 \
    CORESIFT_METRICS_LISTEN=0.0.0.0:9464 \
    CORESIFT_DATA=/data
# New named volumes take their owner from these. 65532 is nobody's, on the host neither.
RUN install -d -m 0700 -o 65532 -g 65532 /data && install -d -o 65532 -g 65532 /pools
USER 65532:65532
WORKDIR /data
VOLUME ["/data"]
EXPOSE 50051 50052 9464
# Python handles SIGTERM itself, and its one child is its own: no init is needed.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=300s --start-interval=2s --retries=3 \
    CMD ["coresift", "health", "--server", "127.0.0.1:50052"]
ENTRYPOINT ["coresift"]
CMD ["serve", "--pool", "/pool"]


FROM runtime AS gpu
# CUDA's own libraries come with torch; the NVIDIA container runtime adds those of the driver.
# Without a GPU it does not start, rather than serve slowly.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CORESIFT_DEVICE=cuda
COPY --from=install-gpu /opt/coresift /opt/coresift


FROM runtime AS cpu
COPY --from=install-cpu /opt/coresift /opt/coresift

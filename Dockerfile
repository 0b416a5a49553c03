# Two stages: one builds a locked environment, the other holds Python, the libraries that it loads and that environment,
# and nothing else: no shell, no package manager, no setuid file. It writes only to the volume, and is not root.
# `make image` builds it with a Docker engine or without one (k8s/image/build.sh). For builds that can be repeated give
# the base by digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Where pip looks: PyPI, or a folder of wheels without a network. The lock's hashes hold for both.
ARG PIP_NO_INDEX= PIP_FIND_LINKS= SOURCE_DATE_EPOCH=0
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/llm-sidecar
WORKDIR /src
COPY requirements/image.txt requirements/image.txt
RUN /opt/pip/bin/pip --python /opt/llm-sidecar/bin/python install --require-hashes --only-binary=:all: -r requirements/image.txt
COPY pyproject.toml README.md LICENSE ./
COPY policies/prices policies/prices
COPY policies/catalogue policies/catalogue
COPY sidecar sidecar
# What only builds the wheel goes again.
RUN /opt/pip/bin/pip --python /opt/llm-sidecar/bin/python install --no-deps --no-build-isolation . \
    && /opt/pip/bin/pip --python /opt/llm-sidecar/bin/python uninstall --yes hatchling editables pathspec tomlkit trove-classifiers pip \
    && /opt/llm-sidecar/bin/python -I -m sidecar version
COPY k8s/image/rootfs.py k8s/image/rootfs.py
RUN python3 k8s/image/rootfs.py /opt/llm-sidecar /rootfs && mkdir /state

FROM scratch AS runtime
COPY --from=build /rootfs /
COPY --from=build --chown=10001:10001 /state /var/lib/llm-sidecar
ENV SIDECAR_DB=/var/lib/llm-sidecar/sidecar.db
ENV PATH=/opt/llm-sidecar/bin LANG=C.UTF-8
VOLUME /var/lib/llm-sidecar
USER 10001:10001
WORKDIR /var/lib/llm-sidecar
EXPOSE 9090 9091
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["/opt/llm-sidecar/bin/python", "-I", "-S", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9091/health', timeout=2)"]
# -I: neither the environment nor the working directory adds code; -B: writes no bytecode; -u: log lines leave at once
ENTRYPOINT ["/opt/llm-sidecar/bin/python", "-I", "-B", "-u", "-m", "sidecar"]
CMD ["run"]

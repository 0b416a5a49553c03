# Two stages: one builds a locked environment, the other holds only Python and that environment. No shell is needed to
# run it, nothing is written outside the volume, and the process is not root.
# For builds that can be repeated give the base by digest: --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:...
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/llm-sidecar
WORKDIR /src
COPY requirements/run.txt requirements/run.txt
RUN python -m pip --python /opt/llm-sidecar/bin/python install --require-hashes --only-binary=:all: -r requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY policies/prices policies/prices
COPY policies/catalogue policies/catalogue
COPY sidecar sidecar
# What only builds the wheel goes again. Compiled bytecode is checked by nothing, so that a read-only root is no slower.
RUN python -m pip --python /opt/llm-sidecar/bin/python install --no-deps --no-build-isolation . \
    && python -m pip --python /opt/llm-sidecar/bin/python uninstall --yes hatchling editables pathspec tomlkit trove-classifiers pip \
    && python -m compileall -q -f --invalidation-mode unchecked-hash /opt/llm-sidecar/lib \
    && /opt/llm-sidecar/bin/python -I -m sidecar version
RUN install -d -o 65532 -g 65532 -m 0700 /state

FROM ${PYTHON_IMAGE} AS runtime
RUN ["python", "-I", "-m", "pip", "uninstall", "--yes", "--quiet", "--root-user-action=ignore", "pip", "setuptools", "wheel"]
COPY --from=build /opt/llm-sidecar /opt/llm-sidecar
COPY --from=build --chown=65532:65532 /state /var/lib/llm-sidecar
ENV SIDECAR_DB=/var/lib/llm-sidecar/sidecar.db
VOLUME /var/lib/llm-sidecar
USER 65532:65532
WORKDIR /var/lib/llm-sidecar
EXPOSE 9090 9091
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["/opt/llm-sidecar/bin/python", "-I", "-S", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9091/health', timeout=2)"]
# -I: neither the environment nor the working directory adds code; -B: writes no bytecode; -u: log lines leave at once
ENTRYPOINT ["/opt/llm-sidecar/bin/python", "-I", "-B", "-u", "-m", "sidecar"]
CMD ["run"]

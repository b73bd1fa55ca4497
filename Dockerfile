# The syncer on Python and the libraries that it needs, and nothing else: no shell, no package manager.
#
# What is in the image is made by deploy/image.sh. `make image` does without Docker and without a registry what this says (see
# e2e/lab/syncer_image.py), so keep to the few instructions that it knows.

FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates python3
COPY --from=ghcr.io/astral-sh/uv:0.13.9 /uv /usr/local/bin/uv
WORKDIR /source
COPY deploy/image.sh deploy/image.sh
RUN deploy/image.sh base /image
COPY pyproject.toml pyproject.toml
COPY uv.lock uv.lock
RUN deploy/image.sh packages /image
COPY deploy/build-requirements.txt deploy/build-requirements.txt
COPY LICENSE LICENSE
COPY README.md README.md
COPY deploy/chart deploy/chart
COPY syncer syncer
RUN deploy/image.sh syncer /image

FROM scratch
COPY --from=build /image/base /
COPY --from=build /image/packages /
COPY --from=build /image/syncer /
LABEL org.opencontainers.image.title="syncer"
LABEL org.opencontainers.image.description="Turns one namespace of a Kubernetes cluster into a whole virtual cluster"
LABEL org.opencontainers.image.version="0.1.0"
LABEL org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/usr/local/bin:/usr/bin
ENV PYTHONDONTWRITEBYTECODE=1
ENV PYTHONSAFEPATH=1
ENV PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /
EXPOSE 8443
ENTRYPOINT ["syncer", "start"]

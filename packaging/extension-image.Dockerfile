# An extension image for CloudNativePG, from the top of the source tree:
#
#     docker build -f packaging/extension-image.Dockerfile -t chatwebhook:1.0.0-18-trixie .
#
# BASE is the PostgreSQL image that the cluster runs, of 18 or later: the library must
# be compiled for its major version, Debian release, and architecture.  docs/containers.md
# says how to use the image.

ARG BASE=ghcr.io/cloudnative-pg/postgresql:18-minimal-trixie

FROM $BASE AS build
ARG PG_MAJOR=18
USER root
RUN apt-get update && \
    apt-get install -y --no-install-recommends gcc libc6-dev make pkg-config python3 \
        libcurl4-openssl-dev libssl-dev "postgresql-server-dev-$PG_MAJOR"
COPY . /src
RUN make -C /src extension-image PG_CONFIG="/usr/lib/postgresql/$PG_MAJOR/bin/pg_config"

FROM scratch
COPY --from=build /src/dist/extension-image /

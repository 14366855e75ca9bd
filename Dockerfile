# PostgreSQL's official image with chatwebhook, preloaded.  See docs/containers.md.
#
#     docker build --tag postgres-chatwebhook .
#     docker build --tag postgres-chatwebhook --build-arg BASE=postgres:17-trixie .

# Any of its Debian variants, from PostgreSQL 15 on.
ARG BASE=postgres:18-bookworm

FROM ${BASE} AS build
# The base sets PG_MAJOR, and has the repository that its PostgreSQL came from.
RUN apt-get update && \
    apt-get install --yes --no-install-recommends \
        gcc libc6-dev make pkg-config libcurl4-openssl-dev libssl-dev \
        "postgresql-server-dev-$PG_MAJOR"
WORKDIR /build
COPY . .
RUN make --jobs="$(nproc)" with_llvm=no all && \
    make with_llvm=no DOCS= DESTDIR=/installed install

FROM ${BASE}
RUN apt-get update && \
    apt-get install --yes --no-install-recommends ca-certificates libcurl4 && \
    rm -rf /var/lib/apt/lists/*
COPY --from=build /installed /
# initdb copies the sample, so every new data directory preloads the library.
RUN echo "shared_preload_libraries = 'chatwebhook'" \
    >>"/usr/share/postgresql/$PG_MAJOR/postgresql.conf.sample"

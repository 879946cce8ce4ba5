# The gateway alone: one binary, no shell, no root. `docker build -t portcullis .`
#
#   docker run -p 8080:8080 -v ./gateway.yaml:/etc/portcullis/gateway.yaml:ro -v portcullis:/data portcullis
#
# In gateway.yaml: listeners.public.bind 0.0.0.0:8080, store.url sqlite:///data/portcullis.db (or postgres://…). The
# admin listener stays on the container's own loopback, where the health check asks it.

FROM rust:1.95.0-bookworm AS build
# pingora-core builds zlib-ng with it.
RUN apt-get update && apt-get install -y --no-install-recommends cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# jemalloc's settings, compiled in.
COPY .cargo/config.toml ./.cargo/config.toml
# The manifest names the example service and the benches; cargo wants to see them even where it does not build them.
COPY examples ./examples
COPY benches ./benches
COPY migrations ./migrations
COPY src ./src
RUN cargo build --release --locked --package portcullis --bin portcullis && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/portcullis /portcullis
# A new volume takes owner and mode from here; the store and its master key go into it.
COPY --from=build --chown=nonroot:nonroot --chmod=700 /data /data
COPY LICENSE /LICENSE
USER nonroot
EXPOSE 8080
VOLUME /data
# The binary asks its own admin listener: there is no curl in here.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/portcullis", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/portcullis"]
CMD ["serve", "--config", "/etc/portcullis/gateway.yaml"]

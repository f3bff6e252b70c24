# Builds and runs on the same Debian release, so that both stages have the same C library.
FROM rust:1.95-slim-trixie AS build
# For the allocator.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends make
WORKDIR /src
COPY . .
# The caches survive between builds on one machine; the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package realtime-runtime --bin realtime \
    && cp target/release/realtime /realtime

FROM debian:trixie-slim
COPY --from=build /realtime /usr/local/bin/realtime
# A number, so that Kubernetes can tell that it is not root.
USER 65532:65532
# HTTP and WebSocket, gRPC, metrics.
EXPOSE 3003 50057 9057
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["realtime", "healthcheck"]
# SIGTERM drains: give it 45 seconds before the kill (docker stop --time 45).
ENTRYPOINT ["realtime"]

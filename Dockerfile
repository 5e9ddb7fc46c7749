# esdb-rollout in an image that holds nothing else: a static binary and the certificates with which AWS is called.
#
# The dependencies are a layer of their own, built again only when Cargo.toml or Cargo.lock changes.
FROM rust:1.95.0-alpine3.22 AS build
# rust:alpine links musl statically; the C of aws-lc and ring needs its headers. Alpine keeps no old package versions to pin.
# hadolint ignore=DL3018
RUN apk add --no-cache build-base ca-certificates-bundle
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' > src/main.rs && : > src/lib.rs && cargo build --locked --release && rm -r src
COPY projections projections
COPY proto proto
COPY src src
# Cargo goes by times, and COPY keeps those of the checkout.
RUN touch src/main.rs src/lib.rs && cargo build --locked --release && strip target/release/esdb-rollout

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /src/target/release/esdb-rollout /usr/local/bin/esdb-rollout
ENV PATH=/usr/local/bin
# A number, so that an orchestrator can see that it is not root. It needs no home and writes no file.
USER 65532:65532
ENTRYPOINT ["esdb-rollout"]
CMD ["--help"]

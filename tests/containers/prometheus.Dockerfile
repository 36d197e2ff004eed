# Debian's Prometheus in place of prom/prometheus, where no registry answers.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update -q && apt-get install -qy --no-install-recommends prometheus \
 && install -d -o 65534 /prometheus
USER 65534:65534
ENTRYPOINT ["/usr/bin/prometheus"]

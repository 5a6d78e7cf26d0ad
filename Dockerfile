# bench with CUDA. Build: docker build -t bench . Run: docker run --gpus all -v ~/data:/data -v "$PWD/runs:/bench/runs" bench doctor
# The driver of the host must support CUDA 13.0 (version 580 or later).
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential ca-certificates cmake curl git nasm \
    && rm -rf /var/lib/apt/lists/*
ENV CARGO_HOME=/opt/cargo RUSTUP_HOME=/opt/rustup PATH=/opt/cargo/bin:$PATH
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain stable
ENV CUDA_HOME=/usr/local/cuda
WORKDIR /src
COPY . .
RUN cargo build --release --locked --features cuda

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/bench /usr/local/bin/bench
ENV BENCH_DATA=/data
WORKDIR /bench
ENTRYPOINT ["bench"]

#!/usr/bin/env python3
"""Milliseconds of PyTorch's optimiser step over the tensors of `benches/optim.rs`: 47 million parameters in 200.

Prints the fastest of 10 runs of: the norm of the gradients, fused AdamW alone, with `clip_grad_norm_`, with a moving
average of the weights (`torch._foreach_lerp_`), with both.
"""
import argparse
import time

import torch

RUNS = 10


def fastest(run):
    best = float("inf")
    for _ in range(RUNS):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return 1e3 * best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    params = [torch.nn.Parameter(torch.randn(shape) * 0.05) for _ in range(100) for shape in [(612, 768), (768,)]]
    averages = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.randn_like(p) * 0.05
    optimizer = torch.optim.AdamW(params, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    values = [p.detach() for p in params]

    def clip():
        # A limit that is always exceeded and a gradient that keeps its size: the scale is near 1.
        torch.nn.utils.clip_grad_norm_(params, 0.999 * limit)

    def average():
        torch._foreach_lerp_(averages, values, 0.001)

    print(f"torch {torch.__version__}, {'threads':>8}{'norm':>9}{'step':>9}{'+ clip':>9}{'+ EMA':>9}{'all':>9}")
    for threads in args.threads:
        torch.set_num_threads(threads)
        limit = torch.nn.utils.get_total_norm([p.grad for p in params]).item()
        times = [
            fastest(lambda: torch.nn.utils.get_total_norm([p.grad for p in params])),
            fastest(optimizer.step),
            fastest(lambda: (clip(), optimizer.step())),
            fastest(lambda: (optimizer.step(), average())),
            fastest(lambda: (clip(), optimizer.step(), average())),
        ]
        print(f"adamw{threads:>20}" + "".join(f"{t:9.1f}" for t in times))


if __name__ == "__main__":
    main()

"""What the scripts in this folder have in common."""

import argparse

import torch


def evaluate_only(description: str) -> bool:
    """Whether the command line asks for the figures of what is saved alone; computes with one thread from now on."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluate-only", action="store_true")
    torch.set_num_threads(1)
    return parser.parse_args().evaluate_only

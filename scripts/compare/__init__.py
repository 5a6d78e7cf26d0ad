"""Parts of scripts/compare_pytorch. `python3 -m unittest discover scripts/compare` tests what needs neither cargo nor PyTorch."""

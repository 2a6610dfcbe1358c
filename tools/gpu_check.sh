#!/bin/sh
# Test and time napari-ensir on a GPU, and write one Markdown page: sh tools/gpu_check.sh [PAGE [DEVICE]]
# Needs Python and a GPU that torch supports; installs wheels into .venv-gpu and nothing else. DEVICE is a torch
# device; without it, the first GPU. To try the script without a GPU: sh tools/gpu_check.sh gpu.md cpu:0
set -eu
cd "$(dirname "$0")/.."
page=${1:-gpu.md}
python3 -m venv .venv-gpu
bin=.venv-gpu/bin
$bin/python -m pip install -q -e . hypothesis pytest pytest-timeout pytest-xvfb
device=${2:-$($bin/python -c "from napari_ensir.devices import available_devices as a; print(a()[0].partition(':')[0])")}
[ "$device" != cpu ] || { echo "torch finds no GPU on this machine" >&2; exit 1; }
name=$($bin/python -c "import torch; print(torch.cuda.get_device_name() if '$device'[:4] == 'cuda' else '$device')")
{
    echo "# napari-ensir on $name"
    echo
    echo "$(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)."
    echo
    echo '```console'
    echo '$ python -m pytest tests/test_accelerators.py'
    $bin/python -m pytest -q -p no:cacheprovider tests/test_accelerators.py 2>&1 || true
    echo '```'
    echo
    $bin/python benchmarks/bench.py --device "$device" --repeats 5
} | tee "$page"

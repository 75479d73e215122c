#!/usr/bin/env bash
# One of three calls on a borrowed GPU, in the root of the tree: bash quarter/call.sh 1|2|3 (make quarter prints them).
# OUT: the folder whose files come back. Unpacked files stay in memory on the machine for the next calls.
# A rehearsal sets REHEARSE, PYTHON, LOAD, STAY, BUDGET, JOBS and LEDGER; see quarter/__main__.py.
set -euo pipefail
call=${1:?expected 1, 2 or 3}
: "${OUT:?expected the folder whose files come back}"
python=${PYTHON:-python3}
load=${LOAD:-load}/$call
if [ -d /dev/shm ]; then memory=/dev/shm; else memory=${TMPDIR:-/tmp}; fi
stay=${STAY:-$memory/attrib}
budget=${BUDGET:-480}
rehearse=${REHEARSE:+--rehearse}
export PYTHONPATH=$PWD:$stay/site ATTRIB_DATA=$stay/data PYTHONUNBUFFERED=1 MPLBACKEND=agg
mkdir -p "$stay/load" "$stay/runs" "$OUT"
exec > >(tee "$OUT/call-$call.log") 2>&1

skipped=() failed=()
# step NAME SECONDS COMMAND...: run COMMAND within SECONDS, and within the rest of the first call's 100 s.
step() {
    local name=$1 seconds=$2 left=$((100 - SECONDS))
    shift 2
    if ((left < 5)); then
        skipped+=("$name")
        return
    fi
    seconds=$((seconds < left ? seconds : left))
    echo "== $name, at most $seconds s"
    local status=0
    timeout -k 2 "$seconds" "$@" || status=$?
    if ((status == 124)); then
        skipped+=("$name (ended after $seconds s)")
    elif ((status)); then
        failed+=("$name (status $status)")
    fi
}

measure() {
    if [ -d "$load/wheels" ]; then
        $python -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$stay/site" "$load"/wheels/*.whl
    else
        echo "== wheels: none to install"
    fi
    # Only the files with GPU tests: others import packages that the machine lacks. Its packages have other versions than
    # constraints.txt, so deprecation warnings are no errors.
    # shellcheck disable=SC2046  # one file per word
    step "GPU tests" 45 "$python" -m pytest -q -m gpu -p no:cacheprovider \
        -W default::DeprecationWarning -W default::FutureWarning $(grep -l '^from devices import' tests/test_*.py)
    step "rates" 80 "$python" -m quarter.rates --out "$stay/rates.json" $rehearse
    step "peaks" 30 "$python" -m bench.peak --out "$OUT" ${rehearse:+--arch lenet --images 8 --rounds 1}
    if [ -e "$stay/rates.json" ]; then cp "$stay/rates.json" "$OUT"; fi
    if ((${#skipped[@]})); then echo "out of time: ${skipped[*]}"; fi
    if ((${#failed[@]})); then
        echo "failed: ${failed[*]}"
        return 1
    fi
}

train() {
    "$python" -m quarter --unpack "$stay"
    "$python" -m quarter.budget $rehearse --sweeps --budget $((budget - SECONDS)) --jobs "${JOBS:-8}" --runs "$stay/runs" \
        --results "$stay/results" --rates "$stay/rates.json" --ledger "${LEDGER:-quarter/ledger.json}" --pack "$OUT"
}

find "$load" -maxdepth 1 -type f -exec cp {} "$stay/load" \;
if [ -d "$load/runs" ]; then cp -r "$load/runs/." "$stay/runs"; fi
case $call in
1) measure ;;
2) echo "unpacked" ;;
3) train ;;
*)
    echo "expected 1, 2 or 3, got $call"
    exit 2
    ;;
esac

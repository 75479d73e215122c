#!/usr/bin/env bash
# Makes the pictures of the pages with the pages' commands. Needs CIFAR-10 (ATTRIB_DATA); five minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/images"
models=(raw=zoo:cifar10-resnet32-raw pgd-at=zoo:cifar10-resnet32-pgd-at aalp=zoo:cifar10-resnet32-aalp)
out=$(mktemp -d)
make_picture() {  # command, its options
    attrib "$1" "${models[@]}" --precision fp32 --out "$out" "${@:2}"
    cp "$out/$1.png" .
}
make_picture maps --images 4
make_picture span --limit 300
make_picture contrib --limit 300
make_picture robust --limit 200 --steps 10,20
make_picture sets --limit 300
make_picture check --limit 60
make_picture relate --limit 200
rm -r "$out"

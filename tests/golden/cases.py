"""The golden cases: names and command lines. They run in the folder that ``record.workplace`` makes.

OUT is a new folder for the results, DATA the folder of the real data sets. The models in models/ were trained on glyphs
with ``python -m train``. at (pgd-at, 3 seeds, 9 epochs of 4,000 images) and raw (standard, 2 seeds, 3 epochs of 6,000)
are LeNets. The folders at/ and raw/ have the saved epochs of the first seeds. again.pt is AGAIN in the gate form, a
ResNet-32. To keep the files small, weights are fp16 with 3 bits of mantissa in the large layers, and the smallest
weights are 0: 98 % of the LeNets' hidden layer, 40 % of ResNet-32's convolutions.
"""

SEEDS = "--ckpt at=at/epoch-9.pt,at-1.pt,at-2.pt --ckpt raw=raw/epoch-3.pt,raw-1.pt"
TWO = "--ckpt at=at/epoch-9.pt --ckpt raw=raw/epoch-3.pt"
GATED = "--ckpt gated=again.pt"
OWN = "--model own=golden_own:build --mean 0.5,0.5,0.5 --std 0.3,0.3,0.3 --data glyphs"
CIFAR = "--ckpt raw=zoo:cifar10-resnet32-raw --ckpt zoo:cifar10-resnet32-pgd-at --data-root DATA"
SEEDED = "--seed 0 --device cpu --precision fp32"
OUT = f"{SEEDED} --out OUT"

CASES = {
    "span-seeds": f"span {SEEDS} --limit 40 {OUT}",
    "span-attack": f"span {SEEDS} --attack pgd --steps 4 --target prediction --floor 10 --limit 30 {OUT}",
    "span-fgsm": f"span {TWO} --attack fgsm --eps 0.02 --threshold max:0.5 --floor 0 --limit 40 {OUT}",
    "span-cw-json": f"span {TWO} --attack cw --steps 3 --step-size 0.01 --floor 0 --limit 20 {SEEDED} --json",
    "span-eq6": f"span {TWO} --map eq6 --threshold otsu --layer stages.0 --floor 5 --limit 30 {OUT}",
    "span-smoothgrad": f"span {TWO} --map smoothgrad --threshold mass:0.5 --floor 4 --limit 20 {OUT}",
    "span-gradient": f"span {TWO} {GATED} --map gradient --floor 0 --limit 20 --split train {OUT}",
    "span-integrated": f"span {TWO} --map integrated-gradients --floor 0 --limit 10 {OUT}",
    "span-occlusion": f"span {TWO} --map occlusion --floor 0 --limit 20 {OUT}",
    "span-save-maps": f"span {TWO} --map guided-gradcam --attack fgsm --save-maps --floor 0 --limit 20 {OUT}",
    "span-maps-file": f"span --maps random=maps.npz --maps again=maps.npz --data glyphs --limit 30 {OUT}",
    "span-own": f"span {OWN} --layer 0 --floor 0 --limit 20 {OUT}",
    "span-cifar": f"span {CIFAR} --floor 10 --limit 30 {OUT}",
    "maps-attack": f"maps {SEEDS} {GATED} --images 3 --attack pgd --steps 3 {OUT}",
    "maps-cifar": f"maps {CIFAR} --index 3,17 --map smoothgrad --threshold max:0.3 {OUT}",
    "maps-json": f"maps {TWO} --images 2 {SEEDED} --json",
    "sets-seeds": f"sets {SEEDS} --limit 40 --steps 5 {OUT}",
    "sets-run": f"sets {TWO} --run at --attack fgsm --limit 40 {OUT}",
    "sets-cifar": f"sets {CIFAR} --limit 20 --steps 3 {OUT}",
    "contrib-seeds": f"contrib {SEEDS} --attack pgd --steps 4 --limit 40 {OUT}",
    "contrib-own": f"contrib {OWN} --fc 2 --multiple 3 --limit 30 {OUT}",
    "contrib-cifar": f"contrib {CIFAR} --limit 30 {OUT}",
    "fc-seeds": f"fc {SEEDS} --device cpu --out OUT",
    "fc-class-mean": f"fc {TWO} {GATED} --rule class-mean --device cpu --out OUT",
    "fc-absolute-json": "fc --ckpt zoo:cifar10-resnet32-raw --rule absolute --device cpu --json",
    "robust-seeds": f"robust {SEEDS} --steps 2,5 --limit 30 {OUT}",
    "robust-sweep": f"robust {TWO} --eps 0:8/255:3 --steps 3 --worst --limit 30 {OUT}",
    "robust-gap": f"robust {TWO} --gap --restarts 2 --steps 3 --limit 30 {OUT}",
    "robust-gated": f"robust {GATED} --steps 2 --limit 20 {OUT}",
    "robust-autoattack": f"robust --ckpt raw=raw/epoch-3.pt --autoattack --steps 2 --limit 2 {OUT}",
    "robust-cifar": f"robust {CIFAR} --steps 2,4 --limit 16 {OUT}",
    "check-seeds": f"check {SEEDS} --stages 3 --curve-steps 5 --steps 3 --limit 15 {OUT}",
    "check-plain": f"check {TWO} --attack none --baseline black --map gradient --threshold otsu --stages 2"
    f" --curve-steps 4 --limit 15 {OUT}",
    "check-cifar": f"check {CIFAR} --attack fgsm --stages 3 --curve-steps 4 --limit 10 {OUT}",
    "evolve-one": f"evolve at --images 2 --steps 3 --limit 30 {OUT}",
    "evolve-two": f"evolve adv=at raw --images 2 --attack fgsm --threshold max:0.5 --limit 30 {OUT}",
    "relate-seeds": f"relate {SEEDS} --steps 3 --limit 30 {OUT}",
    "relate-run": f"relate --run at --run raw --attack fgsm --map gradient --limit 30 {OUT}",
    "relate-cifar": f"relate {CIFAR} --steps 3 --limit 20 {OUT}",
    "report-seeds": f"report {SEEDS} --images 3 --limit 15 --steps 2 {SEEDED} --out OUT/report.html",
    "report-cifar": "report --ckpt zoo:cifar10-resnet32-pgd-at --data-root DATA --images 2 --limit 8 --attack fgsm"
    f" --steps 2 {SEEDED} --out OUT/page.html --results OUT/numbers",
    "info": "info at/epoch-3.pt again.pt --ckpt own=raw-1.pt --ckpt zoo:mnist-lenet-raw --json",
    "zoo": "zoo --json",
    "error-no-model": f"span --limit 3 {OUT}",
    "error-no-file": "fc --ckpt nothing.pt --device cpu",
    "error-option": "span --ckpt raw-1.pt --sharpness 3",
    "error-command": "spam --ckpt raw-1.pt",
    "error-map": f"maps --ckpt raw-1.pt --map gradcamera {OUT}",
    "error-threshold": f"span --ckpt raw-1.pt --threshold max:3 {OUT}",
    "error-maps-and-ckpt": f"span --ckpt raw-1.pt --maps maps.npz --data glyphs {OUT}",
    "error-same-name": f"contrib --ckpt raw-1.pt --ckpt raw-1=at-1.pt --limit 3 {OUT}",
    "error-eps": f"robust --ckpt raw-1.pt --eps 0.3:0.1:3 {OUT}",
    "error-steps": f"robust --ckpt raw-1.pt --steps 3,x {OUT}",
    "error-run": f"evolve models-nowhere {OUT}",
    "error-limit": f"sets --ckpt raw-1.pt --limit 0 {OUT}",
    "error-stages": f"check --ckpt raw-1.pt --limit 3 --stages 0 {OUT}",
    "error-target": f"report --ckpt raw-1.pt --target labels {SEEDED} --out OUT/report.html",
    "error-runs": f"relate --run at-1.pt {OUT}",
    "error-info": "info maps.npz",
}  # fmt: skip

# Every target makes the .venv it needs on first use and reuses it afterwards.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo test notebooks docs figures reproduce quarter bench lint clean

setup: $(READY)

# plain pip: constraints.txt pins every version, torch's above all
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed; name one with make PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[autoattack,dev,notebook,tensorboard]'
	@touch $@

# the two runs side by side, a thread each
demo: $(READY)
	@OMP_NUM_THREADS=1 $(MAKE) --no-print-directory -j2 demo-raw demo-pgd-at
	$(BIN)/attrib report standard=runs/demo/raw/model.pt runs/demo/pgd-at/model.pt --limit 200 --out runs/demo/report.html
	@echo 'Open runs/demo/report.html. For a model of your own: attrib report mine=my_code:build --data folder:photos'

demo-%: $(READY)
	$(BIN)/python -m train --recipe $* --recipe demo --out runs/demo/$*

# neighbours stay in one process, since the tests of a file share fixtures
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

notebooks: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/jupyter execute notebooks/*.ipynb

# the pages as a site, in site/
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

figures: $(READY)
	$(BIN)/python -m figures

# a GPU, overnight; SHORT=1: two CPU cores, hours. SWEEPS=1: those over alpha too.
reproduce: $(READY)
	$(BIN)/python -m figures.reproduce $(if $(SHORT),--short) $(if $(SWEEPS),--sweeps)

# The calls to make on a borrowed GPU, and what travels with them in load/; REHEARSE=1: run them here, tiny, in minutes.
quarter: $(READY)
	$(BIN)/python -m quarter $(if $(REHEARSE),--rehearse)

# On two free CPU cores in under 20 minutes. torchattacks asks for torchvision, which what is used of it does not need.
bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt torchattacks==3.5.1 requests
	test -e runs/demo/pgd-at/model.pt || $(MAKE) demo
	set -e; for bench in attack table_row peak maps train_step commands growth scaling estimate page; do \
		$(BIN)/python -m bench.$$bench; done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs load site

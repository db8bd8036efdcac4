# make demo, make test: each builds .venv itself on a fresh machine.
#   TORCH   which torch pip installs first; e.g.  make demo TORCH="torch==2.9.0 --index-url <your mirror>"
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: bench demo docs test test-slow test-frameworks kills fuzz test-oldest test-python nightly audit lint wheel-check clean venv

venv: $(STAMP)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch goes in first and is then pinned: a looser request through another package may fetch a different build.
$(STAMP): $(VENV)/bin/python pyproject.toml
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH)
	$(BIN)/python -c "from importlib.metadata import version; print('torch==' + version('torch'))" > $(VENV)/constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt -e '.[dev,imagenet,faces]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/physadv demo

# Processes among which the files of tests are divided. Their fixtures hold nets and photos: about 1.5 GB each.
TEST_PROCESSES ?= 2
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout 3600

# All of benchmarks/, with peers in a folder of their own, on one page: build/bench/benchmarks.md. BENCH="--quick" takes
# seconds a script and measures nothing.
BENCH ?= --peers
bench: $(STAMP)
	$(BIN)/python scripts/bench.py $(BENCH)

# Every command that writes, killed at random moments and repeated: PHYSADV_KILLS times, 240 by default.
kills: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout 3600 tests/cli/test_kills.py

# An hour of mutated inputs for every reader, guided by the code that they reach where atheris can be installed; failing
# ones are kept in tests/fuzz/corpus.
FUZZ_MINUTES ?= 60
FUZZ_SEED    ?= $(shell date +%s)
fuzz: $(STAMP)
	$(BIN)/python -c "import atheris" 2>/dev/null || $(BIN)/python -m pip install -q atheris 2>/dev/null || true
	$(BIN)/python tests/fuzz/guided.py --minutes $(FUZZ_MINUTES) --seed $(FUZZ_SEED)

# The lowest versions that pyproject.toml allows, beside this torch, in a venv of their own.
OLDEST := build/oldest
test-oldest: $(STAMP)
	rm -rf $(OLDEST) && $(PYTHON) -m venv $(OLDEST)
	$(BIN)/python scripts/oldest_versions.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check $(TORCH)
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check -c $(OLDEST)/constraints.txt -e .
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check pytest pytest-timeout hypothesis
	$(OLDEST)/bin/physadv doctor
	$(OLDEST)/bin/python -m pytest -q tests/core tests/printing/test_cut_line.py tests/cli/test_help.py

# Installed and tried on another version of Python: on the path, or among pyenv's.
VERSION ?= 3.13
OTHER    = build/python-$(VERSION)
test-python: $(STAMP)
	@found=$$(python$(VERSION) -c "import sys; print(sys.executable)" 2>/dev/null || ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(VERSION).*/bin/python 2>/dev/null | tail -1); \
	  if [ -z "$$found" ]; then echo "Python $(VERSION) is not to be had: skipped"; exit 0; fi; set -ex; \
	  rm -rf $(OTHER) && $$found -m venv $(OTHER); \
	  $(OTHER)/bin/python -m pip install -q --disable-pip-version-check $(TORCH); \
	  $(OTHER)/bin/python -c "from importlib.metadata import version; print('torch==' + version('torch'))" > $(OTHER)/constraints.txt; \
	  $(OTHER)/bin/python -m pip install -q --disable-pip-version-check -c $(OTHER)/constraints.txt -e . pytest pytest-timeout hypothesis; \
	  $(OTHER)/bin/physadv doctor; \
	  $(OTHER)/bin/python -m pytest -q tests/core tests/printing/test_cut_line.py tests/cli/test_help.py

# Real torchvision, timm, transformers and ultralytics (AGPL-3.0), which need another build of torch.
FRAMEWORKS := build/frameworks
TORCHVISION ?= torch==2.14.1 torchvision==0.29.1
test-frameworks:
	test -x $(FRAMEWORKS)/bin/python || $(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/python -m pip install -q --disable-pip-version-check $(TORCHVISION)
	$(FRAMEWORKS)/bin/python -c "from importlib.metadata import version; \
	  print(*(f'{name}=={version(name)}' for name in ('torch', 'torchvision')), sep='\n')" > $(FRAMEWORKS)/constraints.txt
	$(FRAMEWORKS)/bin/python -m pip install -q --disable-pip-version-check -c $(FRAMEWORKS)/constraints.txt \
	  -e '.[onnx,torchvision,timm,hf,ultralytics]' onnx onnxscript pytest pytest-timeout
	$(FRAMEWORKS)/bin/python -m pytest -q -m frameworks tests/models/test_frameworks.py

# What takes longer than CI allows: the oldest and the newest versions, real frameworks, kills, slow tests, an hour of fuzzing.
nightly:
	.ci/nightly

# Known faults of what is installed; asks a database on the network.
audit: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check pip-audit
	mkdir -p build
	$(BIN)/pip-audit --skip-editable --format json --output build/audit.json
	$(BIN)/python -c "import json, sys; \
	  found = json.load(open('build/audit.json'))['dependencies']; \
	  read = [d for d in found if 'vulns' in d]; \
	  print(len(read), 'of', len(found), 'packages were looked up'); \
	  sys.exit('The database knew none of them: nothing was audited' if not read else 0)"

# The documentation site, build/site/index.html: opens from the folder, asks no network; a warning is an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel as a stranger would install it: a clean venv, the doctor, and one tiny run from another folder.
wheel-check: $(STAMP)
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install -q --disable-pip-version-check $(TORCH)
	build/wheel/venv/bin/python -m pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt build/wheel/physadv-*.whl
	cd build/wheel && venv/bin/physadv doctor
	cd build/wheel && venv/bin/physadv demo --steps 2 --clips 1 --frames 2 --out demo --json > demo.json
	test -s build/wheel/demo/sheet.pdf && test -s build/wheel/demo/check/report.html

clean:
	rm -rf $(VENV) build dist runs

# make demo: two phantom sections, mended.   make test: lint, types, dry runs and all tests.
# Both set up .venv themselves and reuse it while envs/requirements.lock and pyproject.toml stay as they are.
.PHONY: demo pictures vendor test test-slurm lint format setup lock phantoms clean
.NOTPARALLEL:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# .venv is named from here: a path with a space in it is no word of make.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH := $(CURDIR)/workflow/lib
export OMP_WAIT_POLICY := PASSIVE
# Snakemake keeps a cache under the home folder, which a container or a node may not let it write.
CACHE := $(shell d="$${XDG_CACHE_HOME:-$$HOME/.cache}"; while [ ! -e "$$d" ] && [ "$$d" != / ]; do d=$$(dirname "$$d"); done; [ -d "$$d" ] && [ -w "$$d" ] && echo writable)
ifneq ($(CACHE),writable)
export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
endif
WITNESS := { sha256sum envs/requirements.lock pyproject.toml; pwd; }

setup:
	@$(WITNESS) | cmp -s - .venv/ready || { set -e; \
	  "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "cytomend needs Python 3.11; set PYTHON=/path/to/python3.11"; exit 1; }; \
	  base=$$("$(PYTHON)" -c 'import sys; print(sys._base_executable)'); \
	  echo "Setting up .venv (a few minutes, once)"; rm -rf .venv; "$$base" -m venv .venv; \
	  .venv/bin/python -m pip install -q --disable-pip-version-check -r envs/requirements.lock; \
	  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	  $(WITNESS) > .venv/ready; }
	@test -e slurm -o -L slurm || ln -s profiles/slurm slurm # where `snakemake --profile slurm` looks for it

phantoms: setup
	@for n in 1 2; do for f in section.tif truth.tif mask.tif mask.geojson cells.parquet; do test -e demo/phantom-$$n/$$f || missing=1; done; \
	  test -z "$$missing" || python -m cytomend phantom --size 1500 1500 --seed $$n --out demo/phantom-$$n --overwrite || exit 1; missing=; done

demo: phantoms
	snakemake --configfile config/demo.yaml --cores all
	@echo; echo "Open the report:  $(CURDIR)/results/brain/report/index.html"

pictures: demo
	python docs/before_after.py demo/phantom-1/section.tif results/phantom-1/corrected.ome.zarr docs/images/before-after.png --box 780 540 1200 960 --outline
	python docs/page_picture.py results/phantom-1/report/index.html docs/images/page.webp --region 3

vendor: setup
	python workflow/report/vendor/fetch.py
	python workflow/report/vendor/fetch.py tests/vendor/packages.json

test: lint
	OPENBLAS_NUM_THREADS=1 pytest --numprocesses 2 --dist loadfile

test-slurm: setup
	CYTOMEND_SLURM=1 pytest tests/test_slurm.py

lint: phantoms
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	mypy
	codespell
	snakemake --lint
	snakemake --dry-run --quiet all
	snakemake --dry-run --quiet all --configfile config/demo.yaml

format: setup
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

lock: setup
	python envs/lock.py

clean:
	rm -rf results logs benchmarks/*/ benchmarks/*.tsv demo .snakemake

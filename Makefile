# Two commands do everything on a machine with git, make and Python 3.10 to 3.13 (python3-venv):
#   make demo   renders a flight, plays it to the real node over real ROS 2, leaves video and scores
#   make demo-real BAG=...   the same for your own bag, folder of images or video
#   make test   checks style and types, then runs every test
# and, on a machine that is left alone for it:
#   make field  bad input, floods and long service at full scale; docs/results/field.json
PYTHON ?= python3
DEMO := .venv-demo
TEST := .venv-test
CORE := .venv-core
BRIDGE := .venv-bridge
SOURCES := evit_seg offline_train launch test setup.py
PIP_FLAGS := --quiet --no-cache-dir --disable-pip-version-check

.PHONY: demo demo-real test field lint core cv-bridge clean

# The environments are made again when the list of dependencies changes.
$(DEMO)/ready: setup.py
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install $(PIP_FLAGS) -e '.[demo]'
	touch $@

$(TEST)/ready: setup.py
	$(PYTHON) -m venv $(TEST)
	$(TEST)/bin/pip install $(PIP_FLAGS) -e '.[test]'
	touch $@

demo: $(DEMO)/ready
	AMENT_PREFIX_PATH=$(CURDIR)/$(DEMO) $(DEMO)/bin/python -m evit_seg.replay.demo --out demo

# BAG: a bag, a folder of images, or a video.
demo-real: $(DEMO)/ready
	@test -n '$(BAG)' || { echo 'usage: make demo-real BAG=<bag, folder of images, or video>'; exit 2; }
	AMENT_PREFIX_PATH=$(CURDIR)/$(DEMO) $(DEMO)/bin/python -m evit_seg.replay.demo_real '$(BAG)' \
	    --out demo-real

test: lint
	AMENT_PREFIX_PATH=$(CURDIR)/$(TEST) $(TEST)/bin/python -m pytest

# A twentieth of it is part of `make test`, without the bars on speed and memory.
field: $(TEST)/ready
	EVIT_SEG_FIELD=1 AMENT_PREFIX_PATH=$(CURDIR)/$(TEST) \
	    $(TEST)/bin/python -m pytest -s test/field

lint: $(TEST)/ready
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ament_flake8 $(SOURCES)
	$(TEST)/bin/ament_pep257 $(SOURCES)
	$(TEST)/bin/mypy --strict evit_seg/core
	$(TEST)/bin/mypy evit_seg offline_train
	$(TEST)/bin/vermin --quiet --violations --target=3.8- --backport typing --eval-annotations \
	    --no-parse-comments evit_seg/core evit_seg/ros evit_seg/benchmark evit_seg/bench.py

# core flies alone: its tests in an environment without ROS, torch and timm.
$(CORE)/ready: setup.py
	$(PYTHON) -m venv $(CORE)
	$(CORE)/bin/pip install $(PIP_FLAGS) -e '.[runtime]' pytest hypothesis onnx tqdm psutil
	touch $@

core: $(CORE)/ready
	! $(CORE)/bin/python -c 'import rclpy' 2>/dev/null
	! $(CORE)/bin/python -c 'import torch' 2>/dev/null
	! $(CORE)/bin/python -c 'import timm' 2>/dev/null
	$(CORE)/bin/python -m pytest -q test/unit

# Debian's python3-cv-bridge is built for Debian's Python, NumPy 1 and OpenCV before 4.12.
$(BRIDGE)/ready: setup.py
	/usr/bin/python3 -m venv --system-site-packages $(BRIDGE)
	$(BRIDGE)/bin/pip install $(PIP_FLAGS) 'numpy<2' 'opencv-python-headless<4.12' \
	    onnxruntime onnx pyyaml 'ros-rclpy[fastrtps]' ros-sensor-msgs ros-std-srvs \
	    ros-diagnostic-msgs ros-geometry-msgs pytest hypothesis
	touch $@

cv-bridge: $(BRIDGE)/ready
	AMENT_PREFIX_PATH=$(CURDIR)/$(BRIDGE) PYTHONPATH=$(CURDIR) EVIT_SEG_NEEDS_CV_BRIDGE=1 \
	    $(BRIDGE)/bin/python -m pytest -q test/node/test_cv_bridge.py

clean:
	rm -rf $(DEMO) $(TEST) $(CORE) $(BRIDGE) demo demo-real build install log

# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""TorchScript as an engine: the tiny network in torch, in single and half precision."""
from __future__ import annotations

from dataclasses import replace
import io
import warnings

from engine_cases import answers_like_onnxruntime, outlives_its_file, threads_stay_on_their_cpu
from evit_seg.core.bundle import open_bundle, read_golden, self_test, write_bundle
from evit_seg.core.engine import load_engine
from evit_seg.core.errors import BundleError, ConfigError, LabelMapMismatch
from evit_seg.core.segmenter import Segmenter
import numpy as np
import onnx
from onnx import numpy_helper
import pytest
from tiny_bundle import tiny_onnx, write_tiny_bundle

torch = pytest.importorskip('torch', reason='TorchScript needs torch')

from offline_train.config import InputConfig  # noqa: E402, I100
from offline_train.deployed import Deployed  # noqa: E402
from offline_train.torchscript import export_torchscript  # noqa: E402

pytestmark = pytest.mark.filterwarnings('ignore:.*torch.jit:FutureWarning',
                                        'ignore:.*torch.jit:DeprecationWarning')


class Tiny(torch.nn.Module):
    """The network of tiny_onnx; its weights read from there."""

    def __init__(self, stride=8, num_classes=14, dtype=torch.float32):
        super().__init__()
        model = onnx.load_from_string(tiny_onnx(num_classes, stride=stride))
        weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy())
                   for t in model.graph.initializer}
        self.convolution = torch.nn.Conv2d(3, num_classes, stride, stride)
        self.convolution.load_state_dict({'weight': weights['weight'], 'bias': weights['bias']})
        self.convolution.to(dtype)
        self.dtype = dtype

    def forward(self, image_NHWC):
        return self.convolution(image_NHWC.permute(0, 3, 1, 2).to(self.dtype))


def script(module, hw=(64, 64)):
    """Return the bytes of a traced, frozen module, as `offline_train export` writes them."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(module.eval(), torch.zeros(1, *hw, 3, dtype=torch.uint8))
        torch.jit.save(torch.jit.freeze(traced), buffer)
    return buffer.getvalue()


def write(folder, content, precision='fp32'):
    """Write the tiny bundle with a TorchScript variant beside the ONNX one."""
    source = open_bundle(write_tiny_bundle(folder / 'source'))
    manifest = source.manifest
    plain = manifest.variants[0]
    golden = replace(manifest.golden, min_agreement={'fp32': 0.75, 'fp16': 0.75})
    files = {name: (source.folder / name).read_bytes()
             for name in (plain.file, golden.image, golden.mask)}
    variant = replace(plain, file='tiny.ts', engine='torchscript', precision=precision)
    write_bundle(folder / 'torch', replace(manifest, variants=(plain, variant), golden=golden),
                 {**files, 'tiny.ts': content})
    return folder / 'torch'


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, script(Tiny()))


def test_it_answers_like_onnx_runtime(folder, one_thread):
    answers_like_onnxruntime(folder, 'torchscript')


def test_half_precision_answers_nearly_so_or_says_that_it_cannot(tmp_path, one_thread):
    folder = write(tmp_path, script(Tiny(dtype=torch.float16)), 'fp16')
    try:
        segmenter = Segmenter.open(str(folder), engine='torchscript', precision='fp16')
    except ConfigError as error:
        assert 'cannot compute fp16 (tiny.ts) on this CPU' in str(error)
        return
    plain = Segmenter.open(str(folder))
    assert self_test(segmenter) > 0.75 and segmenter.engine.precision == 'fp16'
    image_HWC, _ = read_golden(segmenter.bundle)
    ours, theirs = segmenter(image_HWC, 'bgr'), plain(image_HWC, 'bgr')
    assert ours.logits_CHW.dtype == np.float32
    assert (ours.mask_HW == theirs.mask_HW).mean() > 0.97


class Network(torch.nn.Module):
    """The tiny network behind the normalisation that an export puts before it."""

    stride = 8

    def __init__(self):
        super().__init__()
        self.convolution = Tiny().convolution

    def forward(self, image_NCHW):
        return self.convolution(image_NCHW)


@pytest.mark.parametrize('precision, bytes_of_weights', [('fp32', 4), ('fp16', 2)])
def test_what_the_export_writes_is_what_the_engine_runs(tmp_path, one_thread, precision,
                                                        bytes_of_weights):
    config = InputConfig(64, 64, mean=(0, 0, 0), std=(1, 1, 1))
    deployed = Deployed(Network(), config).eval()
    content = export_torchscript(deployed, config, precision)
    weights = 14 * 3 * 8 * 8 * bytes_of_weights
    assert weights < len(content) < weights + 16_000
    segmenter = Segmenter.open(str(write(tmp_path, content, precision)), engine='torchscript')
    assert self_test(segmenter) > 0.75 and segmenter.engine.precision == precision
    plain = Segmenter.open(str(tmp_path / 'source'))
    image_HWC, _ = read_golden(plain.bundle)
    np.testing.assert_allclose(segmenter(image_HWC, 'bgr').logits_CHW,
                               plain(image_HWC, 'bgr').logits_CHW,
                               atol=1e-4 if precision == 'fp32' else 0.2)
    assert next(deployed.parameters()).dtype == torch.float32  # the export takes a copy


def test_a_torch_without_half_on_the_cpu_is_refused(tmp_path, monkeypatch):
    folder = write(tmp_path, script(Tiny(dtype=torch.float16)), 'fp16')

    class Unable:

        def eval(self):  # noqa: A003  torch's name
            return self

        def __call__(self, image):
            raise RuntimeError('listing of the program\n"slow_conv2d_cpu" not implemented for '
                               "'Half'\n")
    monkeypatch.setattr(torch.jit, 'load', lambda path, map_location: Unable())
    with pytest.raises(ConfigError, match=r'torch \S+ cannot compute fp16 \(tiny\.ts\) on this '
                       r"CPU; set engine\.precision: fp32.*not implemented for 'Half'$"):
        Segmenter.open(str(folder), engine='torchscript', precision='fp16')


def test_the_device_and_the_threads_are_what_was_asked_for(folder, one_thread):
    engine = load_engine(open_bundle(folder), 'torchscript', threads=2)
    assert (engine.name, engine.provider, engine.precision) == ('torchscript', 'cpu', 'fp32')
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device here')
def test_no_cpu_stands_in_for_cuda(folder):
    with pytest.raises(ConfigError, match=r'engine\.provider: torch .* finds no CUDA device'):
        load_engine(open_bundle(folder), 'torchscript', provider='cuda')


def test_the_file_may_go_once_it_is_loaded(folder, one_thread):
    outlives_its_file(folder, 'torchscript')


def test_threads_stay_on_their_cpu(tmp_path):
    threads_stay_on_their_cpu(write(tmp_path, script(Wide())), 'torchscript')


class Wide(Tiny):
    """The tiny network after enough work that torch calls for its other threads."""

    def forward(self, image_NHWC):
        image_NHWC = image_NHWC.float()
        noise = torch.full((600, 600), 1e-3)
        return super().forward(image_NHWC) + 0 * (noise @ noise).sum()


@pytest.mark.parametrize('content, error, said', [
    (b'not a program', BundleError, r'cannot load .*tiny\.ts'),
    (script(Tiny(stride=16)), BundleError, r'expected logits 1x14x8x8 \(stride 8\), got'),
    (script(Tiny(num_classes=9)), LabelMapMismatch, 'answers with 9 classes')])
def test_a_program_that_does_not_fit_is_refused(tmp_path, one_thread, content, error, said):
    with pytest.raises(error, match=said):
        load_engine(open_bundle(write(tmp_path, content)), 'torchscript')


def test_a_program_that_takes_something_else_is_refused(tmp_path, one_thread):
    class Pair(Tiny):

        def forward(self, image_NHWC):
            return super().forward(image_NHWC), image_NHWC

    class Narrow(Tiny):

        def forward(self, image_NHWC):
            return super().forward(image_NHWC.reshape(1, 32, 128, 3))
    for module, said in ((Pair(), 'expected one tensor of logits, got tuple'),
                         (Narrow(), 'expected logits')):
        base = tmp_path / type(module).__name__
        base.mkdir()
        with pytest.raises(BundleError, match=said):
            load_engine(open_bundle(write(base, script(module))), 'torchscript')


def test_it_is_not_opened_unless_it_is_asked_for(folder, monkeypatch):
    def load(*args, **options):
        raise AssertionError('the program was opened')
    monkeypatch.setattr(torch.jit, 'load', load)
    assert Segmenter.open(str(folder)).engine.name == 'onnxruntime'
    with pytest.raises(AssertionError, match='was opened'):
        Segmenter.open(str(folder), engine='torchscript')

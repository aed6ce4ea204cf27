# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A student learns from a run folder, a bundle or an ONNX file, with labels or without."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='distillation needs torch')
onnx = pytest.importorskip('onnx', reason='an ONNX teacher is written here')

from evit_seg.core.errors import ConfigError, InputError  # noqa: E402, I100
from evit_seg.core.labels import load_label_map  # noqa: E402
from offline_train import distil as distil_stage  # noqa: E402
from offline_train import export as export_stage  # noqa: E402
from offline_train import train as train_stage  # noqa: E402
from offline_train.config import load_config, TeacherConfig  # noqa: E402
from offline_train.data.crops import CropDataset  # noqa: E402
from offline_train.data.folder import open_frames  # noqa: E402
from offline_train.distillation.cache import CachedLogits  # noqa: E402
from offline_train.distillation.teacher import open_teacher  # noqa: E402
from offline_train.run_dir import RunDir  # noqa: E402
from tiny_runs import losses, parse, TINY, write_scenes  # noqa: E402

CPU = torch.device('cpu')
RUNNER_UP = Path(__file__).parents[3] / 'shared/data/lpcv_runner_up/topformer_tiny_288.onnx'


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp('scenes'))


@pytest.fixture(scope='module')
def teacher(scenes, tmp_path_factory):
    """Return the run folder of a teacher after four steps."""
    out = tmp_path_factory.mktemp('runs') / 'teacher'
    train_stage.main(parse(train_stage, '--out', out, *TINY, f'data.train=[{scenes}]',
                           'model.widths=[8, 8, 8, 8, 8]'))
    return out


def distil(out, scenes, *overrides):
    arguments = ['--out', out, *TINY, f'data.train=[{scenes}]', *overrides]
    assert distil_stage.main(parse(distil_stage, *arguments)) == 0
    return RunDir.open(out)


def terms(run):
    return [record['terms'] for record in run.records() if 'terms' in record]


def test_every_term_at_once_is_logged_and_what_the_loss_is_made_of(scenes, teacher, tmp_path):
    weights = {'labels': 0.5, 'mse': 0.1, 'kl': 0.2, 'cwd': 0.3, 'dist': 0.4, 'mimic': 0.5,
               'generation': 0.6}
    run = distil(tmp_path / 'run', scenes, f'teacher.path={teacher}',
                 *(f'distil.{name}={weight}' for name, weight in weights.items()))
    record = run.records()[0]
    assert set(record['terms']) == set(weights)
    total = sum(weight * record['terms'][name] for name, weight in weights.items())
    assert record['loss'] == pytest.approx(total, rel=1e-4)
    (parent,) = run.provenance()['parents']
    assert (parent['role'], parent['step']) == ('teacher', 4)
    names = run.load_checkpoint().part('adapters')
    assert {name.split('.')[0] for name in names} == {'mimic', 'generation'}


def test_a_term_of_weight_zero_is_not_computed(scenes, teacher, tmp_path):
    run = distil(tmp_path / 'run', scenes, f'teacher.path={teacher}', 'distil.cwd=1',
                 'optim.steps=1')
    assert set(terms(run)[0]) == {'labels', 'cwd'}


def test_a_student_comes_nearer_to_its_teacher(scenes, teacher, tmp_path):
    run = distil(tmp_path / 'run', scenes, f'teacher.path={teacher}', 'distil.mse=1',
                 'distil.labels=0', 'optim.steps=30', 'optim.learning_rate=0.01')
    mse = [row['mse'] for row in terms(run)]
    assert set(terms(run)[0]) == {'mse'}
    assert np.mean(mse[-5:]) < 0.5 * np.mean(mse[:5])


def test_a_resumed_distillation_has_the_losses_of_an_uninterrupted_one(scenes, teacher, tmp_path):
    settings = (f'teacher.path={teacher}', 'distil.kl=1', 'distil.generation=1')
    whole = losses(distil(tmp_path / 'whole', scenes, *settings))
    run = distil(tmp_path / 'cut', scenes, *settings)
    run.checkpoints()[-1].unlink()  # as if it had been interrupted after step 2, the log at 4
    distil_stage.main(parse(distil_stage, '--resume', run.path))
    assert losses(run) == whole and len(whole) == 4
    assert [record['step'] for record in run.records()] == [1, 2, 3, 4]


def test_images_without_labels_teach_alone(scenes, teacher, tmp_path):
    run = distil(tmp_path / 'run', scenes, 'data.train=[]', f'data.unlabeled=[{scenes}/IMG]',
                 'data.unlabeled_fraction=1', f'teacher.path={teacher}', 'distil.labels=0',
                 'distil.cwd=1')
    assert all(row['cwd'] > 0 for row in terms(run))


def test_without_labels_the_label_loss_is_nothing(scenes, teacher, tmp_path):
    run = distil(tmp_path / 'run', scenes, f'data.unlabeled=[{scenes}/IMG]',
                 'data.unlabeled_fraction=1', f'teacher.path={teacher}', 'distil.cwd=1')
    assert [row['labels'] for row in terms(run)] == [0.0] * 4


def test_a_bundle_answers_as_its_run_does(scenes, teacher, tmp_path):
    export_stage.export(RunDir.open(teacher), tmp_path / 'bundle')
    image = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    answers = [open_teacher(TeacherConfig(path=str(path)), load_label_map(), CPU, 'fp32')
               .logits(image) for path in (teacher, tmp_path / 'bundle')]
    torch.testing.assert_close(*answers, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('layout, colour', [('nchw', 'rgb'), ('nchw', 'bgr'), ('nhwc', 'rgb')])
def test_an_onnx_file_sees_its_own_input(tmp_path, layout, colour):
    """Its logits are its input, repeated to 14 classes: what went in can be read off."""
    nchw = layout == 'nchw'
    shape = [1, 3, 4, 6] if nchw else [1, 4, 6, 3]
    helper, number = onnx.helper, onnx.TensorProto
    nodes = [] if nchw else [helper.make_node('Transpose', ['image'], ['planar'],
                                              perm=[0, 3, 1, 2])]
    planar = 'image' if nchw else 'planar'
    nodes += [helper.make_node('Concat', [planar] * 5, ['many'], axis=1),
              helper.make_node('Slice', ['many', 'start', 'end', 'axis'], ['logits'])]
    constants = [helper.make_tensor(name, number.INT64, [1], [value])
                 for name, value in (('start', 0), ('end', 14), ('axis', 1))]
    graph = helper.make_graph(
        nodes, 'peer', [helper.make_tensor_value_info('image', number.FLOAT, shape)],
        [helper.make_tensor_value_info('logits', number.FLOAT, [1, 14, 4, 6])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 8
    onnx.save(model, str(tmp_path / 'peer.onnx'))
    config = TeacherConfig(path=str(tmp_path / 'peer.onnx'), layout=layout, colour=colour,
                           mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    image = torch.tensor([110, 60, 90], dtype=torch.uint8).expand(1, 8, 12, 3)
    logits = open_teacher(config, load_label_map(), CPU, 'fp32').logits(image)
    wanted = [50.0, 10.0, 12.0] if colour == 'rgb' else [40.0, 10.0, 16.0]
    assert logits.shape == (1, 14, 4, 6)
    assert logits[0, :3, 2, 3].tolist() == wanted


@pytest.mark.skipif(not RUNNER_UP.is_file(), reason="the runner-up's network is not beside us")
def test_the_runner_up_teaches(scenes, tmp_path):
    run = distil(tmp_path / 'run', scenes, f'teacher.path={RUNNER_UP}', 'distil.cwd=1',
                 'optim.steps=2')
    assert all(np.isfinite(row['cwd']) for row in terms(run))


def test_kept_logits_are_those_of_the_crop(scenes, tmp_path):
    """The teacher answers with the position: a crop's logits must be its own pixels' places."""
    label_map = load_label_map()
    frames = open_frames([scenes], label_map, '')
    config = load_config(None, [*TINY, 'optim.batch=6', 'augment.flip=0.5'])

    class Places:
        calls = 0

        def logits(self, image_NHWC):
            Places.calls += 1
            _, height, width, _ = image_NHWC.shape
            y, x = torch.meshgrid(torch.arange(2, height, 4) - 0.5,
                                  torch.arange(2, width, 4) - 0.5, indexing='ij')
            return torch.stack([(x + 0.5) / width, (y + 0.5) / height])[None]

    size = config.input
    caches = [CachedLogits(tmp_path, 'places', Places(), [frames], size) for _ in range(2)]
    assert Places.calls == len(frames), "the second one finds the first one's file"
    dataset = CropDataset(frames, label_map, config)
    height, width = frames.read(0)[1].shape
    checked = 0
    for index in range(6):
        sample = dataset[index]
        window = sample['window'].reshape(2, 3)
        got = caches[1].crops(sample['frame'][None], sample['window'][None], (32, 64))[0]
        assert got.shape == (2, 8, 16)
        for row, column in ((2, 3), (4, 8), (5, 12)):
            x, y = window @ torch.tensor([column * 4 + 1.5, row * 4 + 1.5, 1.0])
            place = torch.stack([(x + 0.5) / width, (y + 0.5) / height])
            if place.min() > 0.05 and place.max() < 0.95:  # beyond the outermost centres: constant
                torch.testing.assert_close(got[:, row, column], place, rtol=0, atol=1e-3)
                checked += 1
    assert checked > 6


@pytest.mark.parametrize('overrides, said', [
    (['distil.cwd=1'], 'expected a teacher beside it'),
    (['data.unlabeled=[x]'], 'expected a teacher beside it'),
    (['teacher.path=x'], 'at least one of'),
    (['teacher.path=x', 'distil.cwd=-1'], '0 or more'),
    (['teacher.path=x', 'distil.mimic=1', 'teacher.cache=c'], 'holds logits only'),
    (['teacher.path=x', 'distil.cwd=1', 'teacher.cache=c', 'augment.copy_paste=0.5'],
     'has not seen pasted objects'),
    (['teacher.path=x', 'distil.cwd=1', 'teacher.layout=hwc'], "'nchw' or 'nhwc'"),
    (['distil.cdw=1'], "did you mean 'cwd'"),
])
def test_a_configuration_that_cannot_teach_is_refused(overrides, said):
    with pytest.raises(ConfigError, match=said):
        load_config(None, [*TINY, *overrides])


def test_the_two_stages_are_not_mistaken_for_each_other(scenes, teacher, tmp_path):
    with pytest.raises(ConfigError, match='offline_train train'):
        distil(tmp_path / 'a', scenes)
    with pytest.raises(ConfigError, match='offline_train distil'):
        train_stage.main(parse(train_stage, '--out', tmp_path / 'b', *TINY,
                               f'data.train=[{scenes}]', f'teacher.path={teacher}',
                               'distil.cwd=1'))
    assert not (tmp_path / 'a').exists() and not (tmp_path / 'b').exists()


def test_teachers_that_do_not_fit_are_named(scenes, teacher, tmp_path):
    label_map = load_label_map()
    with pytest.raises(InputError, match='a run folder, a bundle folder or an ONNX file'):
        open_teacher(TeacherConfig(path=str(tmp_path)), label_map, CPU, 'fp32')
    (tmp_path / 'x.onnx').write_bytes(b'nothing')
    with pytest.raises(InputError, match=r'x\.onnx'):
        open_teacher(TeacherConfig(path=str(tmp_path / 'x.onnx')), label_map, CPU, 'fp32')
    export_stage.export(RunDir.open(teacher), tmp_path / 'bundle')
    with pytest.raises(ConfigError, match='shows no feature maps'):
        distil(tmp_path / 'run', scenes, f'teacher.path={tmp_path / "bundle"}', 'distil.mimic=1')
    two = type(label_map)(label_map.classes[:2])
    with pytest.raises(ConfigError, match="student's classes"):
        open_teacher(TeacherConfig(path=str(teacher)), two, CPU, 'fp32')

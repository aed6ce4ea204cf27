# Copyright 2026 The evit_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The sections of a training run's configuration: every key, its default and its meaning."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Tuple


@dataclass(frozen=True)
class InputConfig:
    """What the network sees; the exported manifest's input and normalise sections come from it."""

    height: int = 384
    """Rows of the deployed input, a multiple of 32."""
    width: int = 640
    """Columns of the deployed input, a multiple of 32."""
    mean: Tuple[float, ...] = (123.675, 116.28, 103.53)
    """Subtracted per channel, R, G, B, in grey levels 0-255 (ImageNet's statistics)."""
    std: Tuple[float, ...] = (58.395, 57.12, 57.375)
    """Divisor per channel, R, G, B, in grey levels."""


@dataclass(frozen=True)
class ModelConfig:
    """Which network and how wide."""

    name: str = 'bilateral'
    """Name of the network, see offline_train/models/zoo.py."""
    widths: Tuple[int, ...] = (32, 32, 64, 112, 128)
    """Channels of `bilateral` at strides 2, 4, 8, 16 and 32; the others have fixed ones."""
    decoder_width: int = 0
    """Channels of the decoder of a network with a backbone; 0: those of the published size."""
    initial: str = ''
    """Run folder whose averaged weights are the start; empty: random weights."""
    pretrained: bool = False
    """Start from ImageNet weights of the backbone, downloaded; fails clearly offline."""
    weights: str = ''
    """Local safetensors file of the whole network or its backbone, instead of a download."""
    cuts: Tuple[str, ...] = ()
    """What was cut out of it, in order, one line each; see surgery/cuts.py. Left empty beside
    `initial`, they are the initial run's."""


@dataclass(frozen=True)
class DataConfig:
    """
    Where images and masks are.

    Either a described data set (dataset and root) or plain folders that hold IMG/ and GT/
    (train and validation, layout A: DIR/<split>).
    """

    dataset: str = ''
    """Name under config/datasets or path of such a YAML; empty: the folders below."""
    root: str = ''
    """Folder the data set lies in."""
    train_split: str = 'train'
    """Split of the data set to learn from."""
    validation_split: str = 'val'
    """Split to score on while training and to calibrate on; empty: none."""
    train: Tuple[str, ...] = ()
    """Folders to learn from."""
    validation: Tuple[str, ...] = ()
    """Folders to score on while training and to calibrate the temperature on."""
    unlabeled: Tuple[str, ...] = ()
    """Folders of images without masks (searched through), for distillation only."""
    unlabeled_fraction: float = 0.5
    """Part of the crops taken from `unlabeled`, if there are any; 1: no labelled ones at all."""
    name: str = 'unnamed'
    """What the manifest calls the data."""
    licence: str = 'unknown'
    """Licence of the training data, for the manifest."""
    url: str = ''
    """Where the data come from, for the manifest."""
    label_map: str = ''
    """Label map YAML; empty: the LPCV 2023 classes."""
    cache: str = ''
    """Folder for decoded copies as .npy files; empty: decode at each reading."""
    workers: int = 1
    """Loader processes; one feeds two training threads."""


@dataclass(frozen=True)
class AugmentConfig:
    """How a training crop is cut and changed."""

    crop_height: int = 288
    """Rows of a training crop at the deployed scale, a multiple of 32."""
    crop_width: int = 480
    """Columns of a training crop, a multiple of 32."""
    scale_min: float = 0.75
    """Smallest zoom relative to the deployed scale; a crop never leaves the image."""
    scale_max: float = 1.5
    """Largest zoom relative to the deployed scale."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    focus: Tuple[str, ...] = ('person', 'vehicle')
    """Slugs of small classes around whose objects crops are cut."""
    focus_fraction: float = 0.3
    """Part of the crops that is cut around an object of a focus class."""
    balanced_fraction: float = 0.3
    """Part of the crops that is cut around a pixel of a class drawn uniformly from all."""
    tone: float = 0.3
    """Largest relative change of contrast, of each channel's gain a third of it, of gamma."""
    brightness: float = 25.0
    """Largest shift in grey levels."""
    saturation: float = 0.4
    """Largest relative change of saturation."""
    degrade: float = 0.25
    """Probability of each of blur, noise and JPEG artefacts."""
    rotate: float = 0.0
    """Largest rotation of a crop in degrees; nadir images have no upright."""
    copy_paste: float = 0.0
    """Probability that objects of the focus classes from another frame are pasted in."""
    copy_paste_objects: int = 4
    """Most objects pasted into one crop."""


@dataclass(frozen=True)
class LossConfig:
    """Terms of the loss; sources in losses.py."""

    class_weight_power: float = 0.35
    """Class weights are frequency ** -power, mean 1; 0 turns them off."""
    class_weight_max: float = 6.0
    """Upper bound of a class weight relative to the mean."""
    ohem_threshold: float = 0.7
    """Pixels whose true class has less than this probability count as hard."""
    ohem_keep: float = 0.15
    """At least this part of the pixels, the hardest, is kept; 1 turns hard example mining off."""
    focal_gamma: float = 0.0
    """Above 0 the cross entropy is focal (Lin et al. 2017), and no pixel is left out as easy."""
    cross_entropy: float = 1.0
    """Weight of the (hard or focal) cross entropy."""
    dice: float = 0.0
    """Weight of the soft Dice loss, mean over the classes of the batch."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss."""
    stride: int = 2
    """The loss is taken on every so manieth row and column of the input, at a random phase."""


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay, and an average of the weights."""

    steps: int = 4000
    """Optimiser steps of the whole run."""
    batch: int = 16
    """Crops per step, of all processes together."""
    accumulate: int = 1
    """A step's crops are worked through in so many parts, to save memory."""
    learning_rate: float = 0.002
    """Peak learning rate."""
    weight_decay: float = 0.02
    """Decoupled weight decay (Loshchilov and Hutter 2017), not on biases and normalisation."""
    warm_up: int = 100
    """Steps of linear warm-up."""
    ema_decay: float = 0.998
    """Decay of the exponential moving average of the weights; the average is what is exported."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this norm."""
    precision: str = 'bf16'
    """bf16 (autocast) or fp32. On a Zen 4 CPU bf16 with channels_last is twice as fast."""
    freeze_batch_norm: bool = False
    """Keep BatchNorm in eval mode: its running statistics are used and not changed."""


@dataclass(frozen=True)
class TeacherConfig:
    """Who teaches, and what the teacher takes in if it is a bare ONNX file."""

    path: str = ''
    """Run folder, bundle folder or ONNX file; empty: no teacher."""
    layout: str = 'nchw'
    """Of a bare ONNX file's input: nchw or nhwc. Its size is read from the file."""
    colour: str = 'rgb'
    """Of a bare ONNX file's input: rgb or bgr."""
    mean: Tuple[float, ...] = (123.675, 116.28, 103.53)
    """Subtracted per channel in the order of `colour`, grey levels; bare ONNX files only."""
    std: Tuple[float, ...] = (58.395, 57.12, 57.375)
    """Divisor per channel, grey levels; bare ONNX files only."""
    cache: str = ''
    """Folder for the teacher's logits of whole frames; empty: the teacher sees each crop."""


@dataclass(frozen=True)
class DistilConfig:
    """Weights of the distillation terms, any mixture; 0 turns one off; see distillation/."""

    labels: float = 1.0
    """Weight of the loss on the labels."""
    mse: float = 0.0
    """Mean squared difference of the logits (the paper's own)."""
    kl: float = 0.0
    """KL divergence per pixel, softened by kl_temperature, times its square."""
    kl_temperature: float = 4.0
    """Temperature of `kl`."""
    kl_limit: float = 10.0
    """Stop when the mean of the last steps of `kl` is so many times its least mean so far."""
    cwd: float = 0.0
    """Channel-wise distillation: KL between the spatial distributions of each class."""
    cwd_temperature: float = 4.0
    """Temperature of `cwd`."""
    dist: float = 0.0
    """DIST: correlation between classes and within classes."""
    mimic: float = 0.0
    """ViTKD mimicking of early feature maps through a linear adapter."""
    mimic_stride: int = 8
    """Stride of the feature maps that `mimic` compares."""
    generation: float = 0.0
    """ViTKD generation of late feature maps from partly masked ones."""
    generation_stride: int = 32
    """Stride of the feature maps that `generation` compares."""
    generation_mask: float = 0.5
    """Part of the positions that `generation` masks."""


@dataclass(frozen=True)
class GateConfig:
    """
    Learnable gates on attention heads and FFN blocks, and the price of keeping them open.

    See compression/gates.py; `offline_train prune --closed-gates` cuts what they have closed.
    """

    weight: float = 0.0
    """Weight of the part of all blocks' cost that is open, 0 to 1, in the loss; 0: no gates."""
    cost: str = 'macs'
    """What a block costs at the deployed size: macs, bytes, latency (measured on this machine), or
    the path of a JSON table of block name to ms or mJ; see compression/block_costs.py."""
    start: float = 0.9
    """Probability with which a gate leans to open at the start, above 0 and below 1."""
    threshold: float = 0.1
    """A gate whose value without noise is below this is closed, 0 to 1."""
    learning_rate: float = 10.0
    """Learning rate of the gates as a multiple of optim.learning_rate."""


@dataclass(frozen=True)
class QuantConfig:
    """
    Quantization-aware training: the forward pass rounds as the int8 network will.

    See compression/fake_quant.py; it starts from a float run (model.initial).
    """

    enabled: bool = False
    """Round weights and activations while training."""
    observe: int = 50
    """Steps at the start that round weights only and watch the ranges of the activations."""
    freeze: float = 0.5
    """After this part of the steps the ranges of the activations stand still."""
    range_decay: float = 0.98
    """Decay of the moving average of each activation's least and largest value of a batch."""


@dataclass(frozen=True)
class RunConfig:
    """Seed and how often the run says, scores and saves something."""

    seed: int = 1
    """Seed of initial weights, sampling and augmentation."""
    log_every: int = 20
    """Steps between two lines of the log."""
    validate_every: int = 400
    """Steps between two scores on the validation folders, each followed by a checkpoint."""
    keep: int = 3
    """Checkpoints kept; older ones are deleted."""
    threads: int = 0
    """Threads of the training process; 0: all cores."""
    device: str = 'auto'
    """auto: the GPU if there is one, else the CPU; cpu: the CPU."""

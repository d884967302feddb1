"""DETR against transformers', through its files, and against torch's own attention under the authors' names."""

import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import relu

from foveal.build import create
from foveal.detect.labels import COCO, COCO_IDS
from foveal.ops.positions import box_code, grid_places
from foveal.structures import Batch, Objects
from foveal.system import Preprocess
from foveal.weights import translate

from .compare import LABELS, TOLERANCE, compare_losses, oracle, randomise, relative_error, row

PREPROCESS = Preprocess((128, 192), "bound", 1.0)
SIZES = ((128, 192), (128, 150), (192, 90))  # none is resized, two are padded
COUNTS = (3, 0, 9)  # objects, in the last image more than there are queries
WIDTH, HEADS, HIDDEN, QUERIES = 16, 2, 24, 7
# In parts of all gradients: those of keys' biases, and of what the first layer's queries say to each other, are zero
# but for rounding.
ZERO = 1e-6


def build(labels=LABELS, depths=(1, 1, 1, 1), **fields):
    backbone = create("resnet50", width=8, depths=depths)
    shape = {"width": WIDTH, "heads": HEADS, "hidden": HIDDEN, "queries": QUERIES}
    shape |= {"encoder_depth": 2, "decoder_depth": 3, "dropout": 0.0}
    return create("detr_resnet50", labels=labels, backbone=backbone, preprocess=PREPROCESS, **shape, **fields)


def batch_of(system) -> Batch:
    draw = torch.Generator().manual_seed(5)
    batch = system.preprocess.batch([torch.rand(3, *size, generator=draw) for size in SIZES])
    targets = []
    for size, count in zip(SIZES, COUNTS, strict=True):
        limit = torch.tensor(size).flip(0).double()
        corners = torch.rand(count, 2, 2, generator=draw, dtype=torch.float64).sort(1).values * limit
        labels = torch.randint(len(system.labels), (count,), generator=draw)
        targets.append(Objects(corners.flatten(1), labels))
    assert batch.images.shape == (3, 3, 192, 192)
    return Batch(batch.images.double(), tuple(targets), batch.indices, batch.affines, batch.sizes)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """transformers' DETR and the tensors in its file."""
    transformers = oracle("transformers")
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone_config=backbone, d_model=WIDTH,
        encoder_layers=2, decoder_layers=3, encoder_attention_heads=HEADS, decoder_attention_heads=HEADS,
        encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN, num_queries=QUERIES, num_labels=len(LABELS), dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = randomise(transformers.DetrForObjectDetection(config))
    folder = tmp_path_factory.mktemp("detr")
    model.save_pretrained(folder)
    return SimpleNamespace(model=model.double().requires_grad_(), file=folder / "model.safetensors")


def on_disk(name: str) -> str:
    """transformers' name of a parameter in memory -> that in its files."""
    name = re.sub(r"^model\.backbone\.model\.", "model.backbone.conv_encoder.model.", name)
    return re.sub(r"\.mlp\.(fc\d)\.", r".\1.", name).replace(".o_proj.", ".out_proj.")


def layers_of(model, batch, system):
    """Logits and boxes after each layer of transformers' decoder, (L, B, Q, ...).

    Not by its `auxiliary_loss`, which hands the normalised tokens on to the next layer and so is another network.
    """
    states = []
    handles = [
        layer.register_forward_hook(
            lambda module, inputs, out: states.append(out[0] if isinstance(out, tuple) else out)
        )
        for layer in model.model.decoder.layers
    ]
    last = model(pixel_values=system.normalize(batch.images), pixel_mask=batch.shown().long())
    for handle in handles:
        handle.remove()
    answers = model.model.decoder.layernorm(torch.stack(states))
    logits, boxes = model.class_labels_classifier(answers), model.bbox_predictor(answers).sigmoid()
    assert relative_error(logits[-1], last.logits) < 1e-12
    return logits, boxes


def relative_truths(batch):
    """As transformers takes them: centre and size in parts of each image without its padding."""
    rows = []
    for target, (height, width) in zip(batch.targets, batch.sizes.tolist(), strict=True):
        x1, y1, x2, y2 = target.boxes.T
        boxes = torch.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], 1)
        rows.append({"class_labels": target.labels, "boxes": boxes})
    return rows


def test_equal_to_transformers(theirs, record_property):
    state = load_file(theirs.file)
    system = build(weights=theirs.file).double()
    assert translate(system, state)[0] == "transformers"
    model, batch = theirs.model, batch_of(system)
    answers = system.outputs(batch)
    logits, boxes = layers_of(model, batch, system)
    outputs = [relative_error(answers.logits, logits), relative_error(answers.boxes, boxes)]
    assert max(outputs) < TOLERANCE

    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    model.config.auxiliary_loss = True  # of the loss alone: the layers are known
    torch.set_default_dtype(torch.float64)  # of the weights of classes
    try:
        _, terms, _ = ForObjectDetectionLoss(
            logits[-1], relative_truths(batch), "cpu", boxes[-1], model.config, logits, boxes
        )
    finally:
        torch.set_default_dtype(torch.float32)
        model.config.auxiliary_loss = False
    kinds = {"class": ("loss_ce", 1), "box": ("loss_bbox", 5), "giou": ("loss_giou", 2)}
    expected = {ours: weight * terms[name] for ours, (name, weight) in kinds.items()}
    earlier = [weight * terms[f"{name}_{layer}"] for name, weight in kinds.values() for layer in range(2)]
    expected["auxiliary"] = torch.stack(earlier).sum()
    figures = compare_losses(system, model, system.loss(batch), expected, rename=on_disk, floor=ZERO)
    figures["logits"] = max(*outputs, figures["logits"])
    record_property(
        "parity", row("detr_resnet50 (tiny)", "transformers", "DetrForObjectDetection", "transformers", figures)
    )


def test_final_answers_equal_to_transformers(theirs):
    """Of each query the best class, all told; transformers' processor does the same with a threshold of zero."""
    system = build(weights=theirs.file).double().eval()
    batch = batch_of(system)
    logits, boxes = layers_of(theirs.model, batch, system)
    scores, labels = logits[-1].softmax(-1)[..., :-1].max(-1)
    x, y, w, h = boxes[-1].unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    with torch.no_grad():
        decoded = system.decode(system.outputs(batch), batch)
    for number, objects in enumerate(decoded):
        height, width = SIZES[number]
        limit = torch.tensor([width, height, width, height])
        order = scores[number].argsort(descending=True)
        expected = (corners[number][order] * limit).clamp(min=0).minimum(limit).float()
        torch.testing.assert_close(objects.boxes, expected.detach(), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(objects.scores, scores[number][order].float().detach())
        assert objects.labels.tolist() == labels[number][order].tolist()


class Authors(nn.Module):
    """The names of the authors' checkpoints, made of torch's and torchvision's own modules."""

    def __init__(self, body: nn.Module, rows: int) -> None:
        super().__init__()
        body.fc = nn.Identity()
        self.backbone = nn.ModuleList([nn.ModuleDict({"body": body})])
        self.input_proj = nn.Conv2d(256, WIDTH, 1)
        shape = {"dim_feedforward": HIDDEN, "dropout": 0.0, "batch_first": True}
        self.transformer = nn.ModuleDict(
            {
                "encoder": nn.ModuleDict(
                    {"layers": nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, HEADS, **shape) for _ in range(2))}
                ),
                "decoder": nn.ModuleDict(
                    {
                        "layers": nn.ModuleList(nn.TransformerDecoderLayer(WIDTH, HEADS, **shape) for _ in range(3)),
                        "norm": nn.LayerNorm(WIDTH),
                    }
                ),
            }
        )
        self.query_embed = nn.Embedding(QUERIES, WIDTH)
        self.class_embed = nn.Linear(WIDTH, rows)
        sides = (WIDTH, WIDTH, WIDTH, 4)
        self.bbox_embed = nn.ModuleDict({"layers": nn.ModuleList(map(nn.Linear, sides, sides[1:]))})

    def forward(self, images, seen, position):
        body = self.backbone[0]["body"]
        x = body.maxpool(body.relu(body.bn1(body.conv1(images))))
        x = self.input_proj(body.layer4(body.layer3(body.layer2(body.layer1(x))))).flatten(2).transpose(1, 2)
        for layer in self.transformer["encoder"]["layers"]:
            attended = layer.self_attn(x + position, x + position, x, ~seen, need_weights=False)[0]
            x = layer.norm1(x + attended)
            x = layer.norm2(x + layer.linear2(relu(layer.linear1(x))))
        queries = self.query_embed.weight.expand(len(x), -1, -1)
        y, logits = torch.zeros_like(queries), []
        for layer in self.transformer["decoder"]["layers"]:
            y = layer.norm1(y + layer.self_attn(y + queries, y + queries, y, need_weights=False)[0])
            attended = layer.multihead_attn(y + queries, x + position, x, ~seen, need_weights=False)[0]
            y = layer.norm2(y + attended)
            y = layer.norm3(y + layer.linear2(relu(layer.linear1(y))))
            logits.append(self.class_embed(self.transformer["decoder"]["norm"](y)))
        boxes = self.transformer["decoder"]["norm"](y)
        for number, linear in enumerate(self.bbox_embed["layers"]):
            boxes = linear(relu(boxes) if number else boxes)
        return torch.stack(logits), boxes.sigmoid()


@pytest.mark.parametrize(
    ("labels", "dilated"),
    [(LABELS, False), (COCO, False), (LABELS, True)],
    ids=["own classes", "numbers of COCO", "dilated"],
)
def test_the_authors_files(tmp_path, labels, dilated, record_property):
    resnet = oracle("torchvision.models.resnet")
    depths = (1, 1, 1, 3 if dilated else 1)
    body = resnet.ResNet(resnet.Bottleneck, depths, replace_stride_with_dilation=[False, False, dilated])
    for name, module in list(body.named_modules()):  # a narrow one, which it has no argument for
        if isinstance(module, nn.Conv2d):
            inputs = 3 if module.in_channels == 3 else module.in_channels // 8
            shape = module.kernel_size, module.stride, module.padding, module.dilation
            narrow = nn.Conv2d(inputs, module.out_channels // 8, *shape, bias=False)
            body.set_submodule(name, narrow)
        elif isinstance(module, nn.BatchNorm2d):
            body.set_submodule(name, nn.BatchNorm2d(module.num_features // 8).requires_grad_(False))  # frozen
    reference = randomise(Authors(body, 92 if labels is COCO else len(labels) + 1))
    file = tmp_path / "checkpoint.pth"
    state = {name: x for name, x in reference.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save({"model": state, "epoch": 1}, file)
    system = build(labels, depths, dilated=dilated, weights=file).double()
    assert translate(system, state)[0] == "facebook"
    batch = batch_of(system)
    stride = 16 if dilated else 32
    seen = batch.shown()[:, ::stride, ::stride]
    position = box_code(grid_places(seen, torch.float64), WIDTH // 2).flatten(1, 2)
    logits, boxes = reference.double()(system.normalize(batch.images), seen.flatten(1), position)
    answers = system.outputs(batch)
    if labels is COCO:
        logits = logits[..., [*COCO_IDS, 91]]
    outputs = [relative_error(answers.logits, logits), relative_error(answers.boxes[-1], boxes)]
    assert max(outputs) < TOLERANCE
    found = {"logits": answers.logits, "boxes": answers.boxes[-1]}
    ways = {name: torch.randn_like(value) for name, value in found.items()}
    found, expected = (
        {name: (value * ways[name]).sum() for name, value in each.items()}
        for each in (found, {"logits": logits, "boxes": boxes})
    )
    figures = compare_losses(system, reference, found, expected, floor=ZERO)
    figures["logits"] = max(outputs)
    variant = f"detr_resnet50{'_dc5' * dilated} (tiny, {len(labels)} classes)"
    record_property("parity", row(variant, "torch", "nn.TransformerDecoderLayer", "facebook", figures))


@pytest.mark.parametrize(("name", "published"), [("detr_resnet50", 41_524_768), ("detr_resnet101_dc5", 60_464_672)])
def test_parameters_are_the_published_ones(name, published):
    """Those count the numbers of COCO through: 91 classes, of which 11 are never used."""
    with torch.device("meta"):
        whole, used = create(name, labels=[str(n) for n in range(91)]), create(name)
    assert sum(p.numel() for p in whole.parameters()) == published
    assert sum(p.numel() for p in used.parameters()) == published - 11 * (256 + 1)

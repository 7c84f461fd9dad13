import pytest
import timm
import torch
from timm.layers import Attention, Mlp
from torch import Tensor, nn

from dora.method import products
from dora.method.products import LightAttention, LightMlp, Linear, lighten, linear, product


@pytest.fixture(autouse=True, params=["torch", "onednn"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of a product, whichever this processor is given."""
    if request.param == "onednn" and not products.HAS_ONEDNN:
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "BY_ONEDNN", request.param == "onednn")


def gradients(layer: nn.Module, x: Tensor, weight: Tensor) -> list[Tensor]:
    """Of the input and of every parameter."""
    x = x.clone().requires_grad_()
    (layer(x) * weight).sum().backward()
    found = [x.grad, *(parameter.grad for parameter in layer.parameters())]
    layer.zero_grad()
    assert all(gradient is not None for gradient in found)
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 12), (7, 12), (1, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lightened_linear_layer_equals_torchs(shape: tuple[int, ...], bias: bool, dtype: torch.dtype):
    torch.manual_seed(0)
    layer = nn.Linear(12, 9, bias=bias, dtype=dtype)
    x, weight = torch.randn(shape, dtype=dtype), torch.randn(*shape[:-1], 9, dtype=dtype)
    expected, expected_gradients = layer(x), gradients(layer, x, weight)
    lighten(nn.Sequential(layer))
    assert type(layer) is Linear
    torch.testing.assert_close(layer(x), expected)
    for ours, theirs in zip(gradients(layer, x, weight), expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lightened_mlp_equals_timms(bias: bool, dtype: torch.dtype):
    torch.manual_seed(0)
    mlp = Mlp(12, 48, bias=bias).to(dtype)
    x, weight = torch.randn(3, 5, 12, dtype=dtype), torch.randn(3, 5, 12, dtype=dtype)
    expected, expected_gradients = mlp(x), gradients(mlp, x, weight)
    lighten(mlp)
    assert type(mlp) is LightMlp
    torch.testing.assert_close(mlp(x), expected)
    for ours, theirs in zip(gradients(mlp, x, weight), expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_lightened_mlp_under_autocast_is_timms_too(dtype: torch.dtype):
    torch.manual_seed(0)
    mlp = Mlp(12, 48)
    x, weight = torch.randn(3, 5, 12), torch.randn(3, 5, 12)
    with torch.autocast("cpu", dtype=dtype):
        expected, expected_gradients = mlp(x), gradients(mlp, x, weight)
        lighten(mlp)
        ours = mlp(x)
        assert ours.dtype == expected.dtype == dtype
        torch.testing.assert_close(ours, expected)
        for mine, theirs in zip(gradients(mlp, x, weight), expected_gradients, strict=True):
            assert mine.dtype == theirs.dtype == torch.float32
            torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("half", [False, True])
def test_a_lightened_attention_equals_timms(half: bool):
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, qkv_bias=True)
    x, weight = torch.randn(2, 7, 24), torch.randn(2, 7, 24)
    expected, expected_gradients = attention(x), gradients(attention, x, weight)
    lighten(attention)
    assert type(attention) is LightAttention
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        ours, our_gradients = attention(x), gradients(attention, x, weight)
    tolerance = {"rtol": 0.03, "atol": 0.03} if half else {}
    torch.testing.assert_close(ours.float(), expected, **tolerance)
    for mine, theirs in zip(our_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


def test_a_light_mlp_keeps_no_activation():
    mlp = Mlp(64, 256)
    lighten(mlp)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        mlp(torch.randn(100, 64))
    assert sorted(kept) == sorted([100 * 64, 100 * 256, 64 * 256, 256 * 64])


def test_nothing_is_changed_where_no_gradient_is_wanted_of_a_part():
    layer = Linear(4, 3)
    layer.weight.requires_grad_(False)
    x = torch.randn(2, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is None and layer.bias.grad is not None


def test_empty_batches_and_other_types_take_torchs_product():
    assert product(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert linear(torch.zeros(0, 4), torch.zeros(3, 4), None).shape == (0, 3)
    half = torch.ones(2, 4, dtype=torch.bfloat16)
    assert torch.equal(product(half, half), torch.full((2, 2), 4.0, dtype=torch.bfloat16))


def test_other_kinds_of_mlp_stay_as_they_are():
    swiglu = timm.create_model("vit_giant_patch14_reg4_dinov2", depth=1, embed_dim=24, num_heads=2, num_classes=0)
    before = type(swiglu.blocks[0].mlp)
    lighten(swiglu)
    assert type(swiglu.blocks[0].mlp) is before
    tanh = Mlp(4, 8, act_layer=lambda: nn.GELU(approximate="tanh"))
    lighten(tanh)
    assert type(tanh) is Mlp

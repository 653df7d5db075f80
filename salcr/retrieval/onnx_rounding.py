"""An ONNX graph in bfloat16 made runnable where nothing computes in bfloat16, to compare it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


def in_float32(model: "ModelProto") -> "ModelProto":
    """The same graph on the same weights, each node computed in float32 and its result rounded to bfloat16.

    That is what hardware for bfloat16 does, which sums in float32, but for the order of its sums. A runtime may not
    optimise the result: it would leave out the rounding.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError: the graph breaks the standard.
    """
    import onnx

    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    rounded = {x.name for x in inferred.value_info if x.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16}
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for initializer in graph.initializer:
        if initializer.data_type == onnx.TensorProto.BFLOAT16:
            values = onnx.numpy_helper.to_array(initializer).astype("float32")
            initializer.CopyFrom(onnx.numpy_helper.from_array(values, initializer.name))
    nodes = [made for node in model.graph.node for made in _with_rounding(node, rounded)]
    for field, kept in ((graph.node, nodes), (graph.value_info, [])):
        del field[:]
        field.extend(kept)
    return result


def _with_rounding(node: "NodeProto", rounded: set[str]) -> list["NodeProto"]:
    """The node, and for each of its results that is in bfloat16 a cast there and back."""
    from onnx import NodeProto, TensorProto, helper

    changed, casts = NodeProto(), []
    changed.CopyFrom(node)
    for attribute in changed.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
            attribute.i = TensorProto.FLOAT
    for at, name in enumerate(node.output):
        if name in rounded:
            exact, half = f"{name}/exact", f"{name}/rounded"
            changed.output[at] = exact
            casts.append(helper.make_node("Cast", [exact], [half], to=TensorProto.BFLOAT16))
            casts.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    return [changed, *casts]

# The arm that starts from stage 1's weights, as the stages do: backbones frozen, half the rate.
_base_ = "./arm.py"

optim_wrapper = dict(optimizer=dict(lr=1e-3))
custom_hooks = [dict(type="FreezeBackboneHook", modules=["backbone", "backbone_ir"])]

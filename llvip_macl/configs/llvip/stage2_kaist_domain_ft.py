# Stage 2 with the domain term: visible and infrared features of the fused level are pulled together (lambda 3 = 0.1).
_base_ = "./stage2_kaist_domain_ft_nodomain.py"

macl_head = dict(enable_domain_loss=True, domain_weight=0.1)
load_rules = dict(allow_missing=["roi_head.dhn.*", "roi_head.domain*"])

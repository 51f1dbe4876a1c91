"""One file per placement policy; each is registered under the entry-point group `yisuan.policies`."""

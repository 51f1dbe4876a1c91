"""One file per vendor; each is registered under the entry-point group `yisuan.vendors`."""

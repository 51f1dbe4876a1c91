"""One file per launcher; each is registered under the entry-point group `yisuan.backends`."""

"""Voucher rules, one a file, registered under the entry points `yisuan.rules`. Pure."""

"""Several engines in processes of their own, behind the interface of one."""

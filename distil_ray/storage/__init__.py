"""Files on local disks, in object stores and on web servers. Only this folder imports fsspec."""

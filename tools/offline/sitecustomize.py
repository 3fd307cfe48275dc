"Loaded by every Python that has this folder on PYTHONPATH: connections that leave this machine fail at once."
import ipaddress
import socket

LOCAL_NAMES = {"localhost", "", None, socket.gethostname()}


def check(host):
    "Raise OSError for a host that is not this machine."
    if isinstance(host, bytes): host = host.decode()
    try: local = host in LOCAL_NAMES or ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError: local = False
    if not local: raise OSError(f"the network is switched off here: {host}")


class OfflineSocket(socket.socket):
    "A socket that reaches this machine alone."
    def connect(self, address):
        if self.family != getattr(socket, "AF_UNIX", None): check(address[0])
        return super().connect(address)

    def connect_ex(self, address):
        if self.family != getattr(socket, "AF_UNIX", None): check(address[0])
        return super().connect_ex(address)


def getaddrinfo(host, *args, lookup=socket.getaddrinfo, **kwargs):
    check(host)
    return lookup(host, *args, **kwargs)


socket.socket, socket.getaddrinfo = OfflineSocket, getaddrinfo

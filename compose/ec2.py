"""moto's server, which here is EC2, with one filter more than it knows: DescribeInstances by any private address, as the worker asks it.

    ec2.py -H HOST -p PORT
"""

import sys

from moto.ec2.utils import filter_dict_attribute_mapping
from moto.server import main

# Of an instance's addresses, the primary one; the instances of seed.py have no other.
filter_dict_attribute_mapping.setdefault("network-interface.addresses.private-ip-address", "private_ip")

if __name__ == "__main__":
    main(sys.argv[1:])

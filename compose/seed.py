"""Gives each node an instance in an EC2 that has none: its private address, its name as tag `Name`. Twice in a row changes nothing.

    seed.py SUBNET TYPE NAME=ADDRESS …        such as: seed.py 172.30.240.0/24 m6i.large esdb-1=172.30.240.11

EC2 is found as by every AWS tool: AWS_ENDPOINT_URL_EC2, AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The endpoint must be set:
instances in a real account cost money, and this script is for moto alone.
"""

import os
import sys

import boto3

LASTING = ["pending", "running", "stopping", "stopped"]


def filters(**values):
    return [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in values.items()]


def subnet(ec2, cidr):
    """The subnet with this range, made if it is not there. moto takes any range, loopback too; AWS takes private ones of /16 to /28."""
    known = ec2.describe_subnets(Filters=filters(cidr_block=cidr))["Subnets"]
    if known:
        return known[0]["SubnetId"]
    vpc = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
    return ec2.create_subnet(VpcId=vpc, CidrBlock=cidr)["Subnet"]["SubnetId"]


def image(ec2):
    """Any image of Linux on x86_64: moto starts none."""
    found = ec2.describe_images(Filters=filters(architecture="x86_64"))["Images"]
    linux = [i["ImageId"] for i in found if not i.get("Platform")]
    if not linux:
        sys.exit(f"an image: expected one of Linux on x86_64, found none among {len(found)}")
    return min(linux)


def instance(ec2, subnet_id, kind, name, address):
    wanted = [{"Name": "tag:Name", "Values": [name]}, {"Name": "instance-state-name", "Values": LASTING}]
    known = [i for r in ec2.describe_instances(Filters=wanted)["Reservations"] for i in r["Instances"]]
    if len(known) > 1 or (known and known[0]["PrivateIpAddress"] != address):
        found = ", ".join(f"{i['InstanceId']} at {i['PrivateIpAddress']}" for i in known)
        sys.exit(f"the instance of {name}: expected none or one at {address}, found {found}; start with an empty moto")
    if known:
        return known[0]["InstanceId"], "is there"
    made = ec2.run_instances(
        ImageId=image(ec2),
        InstanceType=kind,
        MinCount=1,
        MaxCount=1,
        SubnetId=subnet_id,
        PrivateIpAddress=address,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}],
    )
    return made["Instances"][0]["InstanceId"], "made"


def main(arguments):
    nodes = [node.partition("=") for node in arguments[2:]]
    if not nodes or not all(name and address for name, _, address in nodes):
        sys.exit(__doc__)
    if not os.environ.get("AWS_ENDPOINT_URL_EC2"):
        sys.exit("AWS_ENDPOINT_URL_EC2: expected moto's URL, found nothing; set it, such as http://moto:5000")
    ec2 = boto3.client("ec2")
    subnet_id = subnet(ec2, arguments[0])
    for name, _, address in nodes:
        id, what = instance(ec2, subnet_id, arguments[1], name, address)
        print(f"{name} {address} {id} {what}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Networks, subnets, ports, routers, floating IPs, security groups: the Neutron v2.0 API."""

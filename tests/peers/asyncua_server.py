"""An OPC UA server by asyncua, told what to do on its standard input.

    asyncua_server.py PORT FILLERS CERTIFICATE.der KEY.pem [ITEMS]

PORT 0 is any free one; it prints `listening PORT`. FILLERS namespaces are registered before the plant's, so that its index is another one
at each start. Without security, and with each policy that is not deprecated; anonymous, and the user `op` with the password `secret`.
ITEMS variables more are named Item.0, Item.1, ….

Commands: `set NAME NUMBER` (a Double), `bad NAME`, `uncertain NAME NUMBER`, `delete NAME`.
"""

import asyncio
import logging
import socket
import sys

from asyncua import Server, ua
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field
from asyncua.crypto.permission_rules import User, UserRole

URI = "urn:plant"


class Users:
    def get_user(self, iserver, username=None, password=None, certificate=None):
        if username is None or (username, password) == ("op", "secret"):
            return User(role=UserRole.User)
        return None


async def main(port, fillers, certificate, key, items):
    if port == 0:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    server = Server()
    await server.init()
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/plant")
    policies = ua.SecurityPolicyType
    server.set_security_policy([
        policies.NoSecurity,
        policies.Basic256Sha256_Sign,
        policies.Basic256Sha256_SignAndEncrypt,
        policies.Aes128Sha256RsaOaep_SignAndEncrypt,
        policies.Aes256Sha256RsaPss_SignAndEncrypt,
    ])
    await server.set_application_uri("urn:plant:server")
    await server.load_certificate(certificate)
    await server.load_private_key(key)
    server.iserver.user_manager = Users()
    for filler in range(fillers):
        await server.register_namespace(f"urn:filler:{filler}")
    namespace = await server.register_namespace(URI)

    def name(text):
        return ua.NodeId(text, namespace), ua.QualifiedName(text, namespace)

    line = await server.nodes.objects.add_object(*name("Line1"))
    speed = await line.add_variable(*name("Speed"), 1.5, ua.VariantType.Double)
    await line.add_variable(*name("Count"), 7, ua.VariantType.Int32)
    await line.add_variable(*name("Temps"), [1.5, 2.5, 3.5], ua.VariantType.Float)
    await line.add_variable(*name("Name"), "press 1", ua.VariantType.String)
    await line.add_variable(*name("Running"), True, ua.VariantType.Boolean)
    setpoint = await line.add_variable(*name("Setpoint"), 20, ua.VariantType.Int16)
    await setpoint.set_writable()
    limits = await line.add_variable(*name("Limits"), [1.5, 2.5], ua.VariantType.Float)
    await limits.set_writable()

    def scaled(_, count, factor):
        if count.Value == 0:
            return ua.StatusCode(ua.StatusCodes.BadOutOfRange)
        return [ua.Variant(count.Value * factor.Value, ua.VariantType.Double)]

    argument = ua.Argument(Name="count", DataType=ua.NodeId(ua.ObjectIds.Int32), ValueRank=-1)
    factor = ua.Argument(Name="factor", DataType=ua.NodeId(ua.ObjectIds.Double), ValueRank=-1)
    product = ua.Argument(Name="product", DataType=ua.NodeId(ua.ObjectIds.Double), ValueRank=-1)
    await line.add_method(*name("Scaled"), scaled, [argument, factor], [product])
    zone_type, _ = await new_struct(server, namespace, "Zone", [
        new_struct_field("temperature", ua.VariantType.Double),
        new_struct_field("setpoints", ua.VariantType.Float, array=True),
        new_struct_field("label", ua.VariantType.String),
    ])
    mode_type = await new_enum(server, namespace, "Mode", ["Idle", "Running", "Fault"])
    await server.load_data_type_definitions()
    zone = ua.Zone()
    zone.temperature, zone.setpoints, zone.label = 21.5, [1.0, 2.0], "z1"
    of = ua.VariantType.ExtensionObject
    await line.add_variable(*name("Zone"), ua.Variant(zone, of), datatype=zone_type.nodeid)
    await line.add_variable(*name("Zones"), ua.Variant([zone, zone], of), datatype=zone_type.nodeid)
    mode = ua.Variant(1, ua.VariantType.Int32)
    await line.add_variable(*name("Mode"), mode, datatype=mode_type.nodeid)
    nodes = {"Speed": speed}
    for item in range(items):
        nodes[f"Item.{item}"] = await line.add_variable(*name(f"Item.{item}"), 0.0, ua.VariantType.Double)
    await server.start()
    print(f"listening {port}", flush=True)
    loop = asyncio.get_running_loop()
    while True:
        words = (await loop.run_in_executor(None, sys.stdin.readline)).split()
        if not words:
            break
        node = nodes[words[1]]
        if words[0] == "set":
            await node.write_value(float(words[2]))
        elif words[0] == "all":
            for item in range(items):
                await nodes[f"Item.{item}"].write_value(float(words[2]))
        elif words[0] == "bad":
            await node.write_value(ua.DataValue(ua.Variant(0.0), ua.StatusCode(ua.StatusCodes.BadSensorFailure)))
        elif words[0] == "uncertain":
            code = ua.StatusCode(ua.StatusCodes.UncertainLastUsableValue)
            await node.write_value(ua.DataValue(ua.Variant(float(words[2])), code))
        elif words[0] == "delete":
            await node.delete()
        print("ok", flush=True)


logging.basicConfig(level=logging.CRITICAL)
port, fillers, certificate, key = sys.argv[1:5]
asyncio.run(main(int(port), int(fillers), certificate, key, int(sys.argv[5]) if len(sys.argv) > 5 else 0))

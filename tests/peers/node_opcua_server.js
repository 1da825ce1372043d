// An OPC UA server by node-opcua, told what to do on its standard input.
//
//     node_opcua_server.js FOLDER PORT FILLERS CERTIFICATE.der KEY.pem [ITEMS]
//
// FOLDER is for what it writes; PORT 0 is any free one; it prints `listening PORT`. FILLERS namespaces come before the plant's, so that its
// index is another one at each start. Without security, and with each policy that is not deprecated; anonymous, and the user `op` with the
// password `secret`. ITEMS variables more are named Item.0, Item.1, ….
//
// Commands: `set NAME NUMBER` (a Double), `bad NAME`, `uncertain NAME NUMBER`, `delete NAME`, `add NAME NUMBER`, `all NAME NUMBER` (every Item),
// `release Slow NUMBER` (which has no value before that, not even an absent one: who asks for it waits).

"use strict";
const fs = require("fs");
const net = require("net");
const path = require("path");
const readline = require("readline");
const { X509Certificate } = require("crypto");
const {
    DataType, DataValue, LocalizedText, MessageSecurityMode, OPCUACertificateManager, OPCUAServer, SecurityPolicy, StatusCodes, Variant,
    VariantArrayType, nodesets, resolveNodeId,
} = require("node-opcua");

const URI = "urn:plant";

/** Type definitions in the format of the OPC Foundation (OPC UA Part 6, Annex F). */
function types(fillers) {
    const before = Array.from({ length: fillers }, (_, filler) => `<Uri>urn:filler:${filler}</Uri>`).join("");
    const ns = fillers + 1;
    const type = (id, name, parent, rest) =>
        `<UADataType NodeId="ns=${ns};i=${id}" BrowseName="${ns}:${name}"><DisplayName>${name}</DisplayName><References>` +
        `<Reference ReferenceType="HasSubtype" IsForward="false">${parent}</Reference></References>${rest}</UADataType>`;
    const fields = `<Definition Name="${ns}:Zone"><Field DataType="Double" Name="temperature"/>` +
        `<Field DataType="Float" ValueRank="1" Name="setpoints"/><Field DataType="String" Name="label"/></Definition>`;
    const texts = ["Idle", "Running", "Fault"];
    const values = texts.map((text, at) => `<Field Name="${text}" Value="${at}"/>`).join("");
    const strings = texts.map((text) => `<uax:LocalizedText><uax:Text>${text}</uax:Text></uax:LocalizedText>`).join("");
    return `<?xml version="1.0" encoding="utf-8"?>
<UANodeSet xmlns="http://opcfoundation.org/UA/2011/03/UANodeSet.xsd" xmlns:uax="http://opcfoundation.org/UA/2008/02/Types.xsd">
<NamespaceUris>${before}<Uri>${URI}</Uri></NamespaceUris>
<Aliases><Alias Alias="Double">i=11</Alias><Alias Alias="Float">i=10</Alias><Alias Alias="String">i=12</Alias>
<Alias Alias="HasSubtype">i=45</Alias><Alias Alias="HasEncoding">i=38</Alias><Alias Alias="HasProperty">i=46</Alias></Aliases>
${type(3000, "Zone", "i=22", fields)}
<UAObject NodeId="ns=${ns};i=3001" BrowseName="Default Binary" SymbolicName="DefaultBinary"><DisplayName>Default Binary</DisplayName>
<References><Reference ReferenceType="HasEncoding" IsForward="false">ns=${ns};i=3000</Reference>
<Reference ReferenceType="HasTypeDefinition">i=76</Reference></References></UAObject>
${type(3100, "Mode", "i=29", `<Definition Name="${ns}:Mode">${values}</Definition>`)}
<UAVariable NodeId="ns=${ns};i=3101" BrowseName="EnumStrings" DataType="i=21" ValueRank="1" ArrayDimensions="3">
<DisplayName>EnumStrings</DisplayName><References><Reference ReferenceType="HasProperty" IsForward="false">ns=${ns};i=3100</Reference>
<Reference ReferenceType="HasTypeDefinition">i=68</Reference></References>
<Value><uax:ListOfLocalizedText>${strings}</uax:ListOfLocalizedText></Value></UAVariable>
</UANodeSet>`;
}

function freePort() {
    return new Promise((resolve) => {
        const free = net.createServer().listen(0, "127.0.0.1", () => {
            const { port } = free.address();
            free.close(() => resolve(port));
        });
    });
}

/** The plant's variables: their names, types and values. */
const SCALARS = [
    ["Speed", DataType.Double, 1.5],
    ["Count", DataType.Int32, 7],
    ["Name", DataType.String, "press 1"],
    ["Running", DataType.Boolean, true],
    ["SByte", DataType.SByte, -128],
    ["Byte", DataType.Byte, 255],
    ["Int16", DataType.Int16, -32768],
    ["UInt16", DataType.UInt16, 65535],
    ["UInt32", DataType.UInt32, 4294967295],
    // Two halves, since JavaScript has no such numbers.
    ["Int64", DataType.Int64, [0x80000000, 0]],
    ["UInt64", DataType.UInt64, [0xffffffff, 0xffffffff]],
    ["Float", DataType.Float, 0.1],
    ["Time", DataType.DateTime, new Date("2026-01-02T03:04:05.678Z")],
    ["Guid", DataType.Guid, "72962B91-FA75-4AE6-8D28-B404DC7DAF63"],
    ["Bytes", DataType.ByteString, Buffer.from([1, 2, 255])],
    ["Xml", DataType.XmlElement, "<a>1</a>"],
    ["Node", DataType.NodeId, resolveNodeId("i=2258")],
    ["Status", DataType.StatusCode, StatusCodes.BadSensorFailure],
    ["Qualified", DataType.QualifiedName, { namespaceIndex: 0, name: "q" }],
    ["Localized", DataType.LocalizedText, new LocalizedText({ locale: "de", text: "läuft" })],
];

async function main(folder, port, fillers, certificate, key, items) {
    const set = path.join(folder, `types-${fillers}.xml`);
    fs.writeFileSync(set, types(fillers));
    const pem = path.join(folder, "plant-certificate.pem");
    fs.writeFileSync(pem, new X509Certificate(fs.readFileSync(certificate)).toString());
    const trusts = new OPCUACertificateManager({ rootFolder: path.join(folder, "pki"), automaticallyAcceptUnknownCertificate: true });
    await trusts.initialize();
    if (port === 0) port = await freePort();
    const server = new OPCUAServer({
        port,
        host: "127.0.0.1",
        hostname: "127.0.0.1",
        resourcePath: "/plant",
        serverInfo: { applicationUri: "urn:plant:server" },
        certificateFile: pem,
        privateKeyFile: key,
        serverCertificateManager: trusts,
        userCertificateManager: trusts,
        nodeset_filename: [nodesets.standard, set],
        allowAnonymous: true,
        userManager: { isValidUser: (name, password) => name === "op" && password === "secret" },
        securityModes: [MessageSecurityMode.None, MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt],
        securityPolicies: [
            SecurityPolicy.None, SecurityPolicy.Basic256Sha256, SecurityPolicy.Aes128_Sha256_RsaOaep, SecurityPolicy.Aes256_Sha256_RsaPss,
        ],
    });
    await server.initialize();
    const space = server.engine.addressSpace;
    const namespace = space.getNamespace(URI);
    const index = namespace.index;
    const objects = space.rootFolder.objects;
    const line = namespace.addObject({ nodeId: `ns=${index};s=Line1`, browseName: "Line1", organizedBy: objects });
    const nodes = {};
    const add = (name, dataType, value, rest = {}) => {
        const options = { nodeId: `ns=${index};s=${name}`, browseName: name, componentOf: line, dataType, ...rest };
        nodes[name] = namespace.addVariable({ ...options, value: new Variant({ dataType, arrayType: VariantArrayType.Scalar, value, ...rest.variant }) });
        return nodes[name];
    };
    SCALARS.forEach(([name, type, value]) => add(name, type, value));
    const array = VariantArrayType.Array;
    add("Temps", DataType.Float, new Float32Array([1.5, 2.5, 3.5]), { valueRank: 1, variant: { arrayType: array } });
    add("Nothing", DataType.Int32, new Int32Array([]), { valueRank: 1, variant: { arrayType: array } });
    add("Names", DataType.String, ["a", "b"], { valueRank: 1, variant: { arrayType: array } });
    const matrix = { arrayType: VariantArrayType.Matrix, dimensions: [2, 3] };
    add("Matrix", DataType.Int32, new Int32Array([0, 1, 2, 3, 4, 5]), { valueRank: 2, arrayDimensions: [2, 3], variant: matrix });
    const zoneType = space.findDataType("Zone", index);
    const zone = space.constructExtensionObject(zoneType, { temperature: 21.5, setpoints: [1, 2], label: "z1" });
    const structure = (name, value, rest) => {
        const of = { nodeId: `ns=${index};s=${name}`, browseName: name, componentOf: line, dataType: zoneType.nodeId, ...rest };
        nodes[name] = namespace.addVariable({ ...of, value: new Variant({ dataType: DataType.ExtensionObject, value, ...of.variant }) });
    };
    structure("Zone", zone, {});
    structure("Zones", [zone, zone], { valueRank: 1, variant: { arrayType: array } });
    const mode = { nodeId: `ns=${index};s=Mode`, browseName: "Mode", componentOf: line, dataType: space.findDataType("Mode", index).nodeId };
    nodes.Mode = namespace.addVariable({ ...mode, value: new Variant({ dataType: DataType.Int32, value: 1 }) });
    const asked = [];
    let slow;
    const refreshFunc = (answer) => (slow ? answer(null, slow) : asked.push(answer));
    namespace.addVariable({
        nodeId: `ns=${index};s=Slow`, browseName: "Slow", componentOf: line, dataType: DataType.Double, value: { refreshFunc },
    });
    for (let item = 0; item < items; item++) add(`Item.${item}`, DataType.Double, 0);
    await server.start();
    console.log(`listening ${port}`);
    const double = (value) => new Variant({ dataType: DataType.Double, value });
    const commands = {
        set: (name, number) => nodes[name].setValueFromSource(double(number)),
        uncertain: (name, number) => nodes[name].setValueFromSource(double(number), StatusCodes.UncertainLastUsableValue),
        bad: (name) => nodes[name].setValueFromSource(double(0), StatusCodes.BadSensorFailure),
        delete: (name) => namespace.deleteNode(nodes[name]),
        add: (name, number) => add(name, DataType.Double, number),
        release: (_, number) => {
            slow = new DataValue({ value: double(number), statusCode: StatusCodes.Good, sourceTimestamp: new Date() });
            asked.splice(0).forEach((answer) => answer(null, slow));
        },
        all: (name, number) => {
            for (let item = 0; item < items; item++) nodes[`Item.${item}`].setValueFromSource(double(number));
        },
    };
    for await (const words of readline.createInterface({ input: process.stdin })) {
        const [command, name, number] = words.split(" ");
        commands[command](name, Number(number));
        console.log("ok");
    }
    process.exit(0);
}

const [folder, port, fillers, certificate, key, items] = process.argv.slice(2);
main(folder, Number(port), Number(fillers), certificate, key, Number(items || 0)).catch((error) => {
    console.error(error);
    process.exit(1);
});

// As read_with.py, for hyparquet: `node with_hyparquet.mjs MODULES FILE…`; reads each file whole, and prints all rows.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modules, ...files] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(createRequire(`${modules}/`).resolve(name)).href);
const { parquetReadObjects } = await load("hyparquet");
const { compressors } = await load("hyparquet-compressors");
const version = JSON.parse(readFileSync(`${modules}/node_modules/hyparquet/package.json`, "utf8")).version;
const columns = [], rows = [];
for (const name of files) {
  const bytes = readFileSync(name);
  const file = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  const objects = await parquetReadObjects({ file, compressors });
  for (const object of objects) {
    for (const key of Object.keys(object)) if (!columns.includes(key)) columns.push(key);
    rows.push(object);
  }
}
const plain = (value) => typeof value === "bigint" ? Number(value) : value === undefined ? null : value;
console.log(JSON.stringify({ version, columns, rows: rows.map((row) => columns.map((name) => plain(row[name]))) }));

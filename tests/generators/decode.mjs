// Decodes recorded messages with generated types: module with `Convert`, file with [[name of message, body] …].
import fs from 'node:fs';
import { pathToFileURL } from 'node:url';

const { Convert } = await import(pathToFileURL(process.argv[2]));
for (const [name, body] of JSON.parse(fs.readFileSync(process.argv[3], 'utf8'))) {
  try {
    Convert[`to${name}`](JSON.stringify(body));
    console.log(`decoded ${name}`);
  } catch (error) {
    console.log(`${name}: ${error.message ?? error}`);
  }
}

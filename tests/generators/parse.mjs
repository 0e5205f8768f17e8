// Parses the AsyncAPI document with the official parser: prints its errors and warnings, and how many messages it found.
import fs from 'node:fs';
import { Parser } from '@asyncapi/parser';

const { document, diagnostics } = await new Parser().parse(fs.readFileSync(process.argv[2], 'utf8'));
for (const { severity, code, message, path } of diagnostics) {
  if (severity <= 1) console.log(`${code}: ${message} at ${path.join('.')}`);
}
console.log(document ? `messages ${document.allMessages().length}` : 'no document');

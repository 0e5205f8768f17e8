// Generates models with AsyncAPI's own generator: document, language, folder.
import fs from 'node:fs';
import { JavaFileGenerator, TypeScriptFileGenerator } from '@asyncapi/modelina';

const [, , document, language, folder] = process.argv;
const generator = language === 'java' ? new JavaFileGenerator() : new TypeScriptFileGenerator();
const options = language === 'java' ? { packageName: 'fleet' } : {};
const models = await generator.generateToFiles(JSON.parse(fs.readFileSync(document, 'utf8')), folder, options, true);
for (const model of models) console.log(model.modelName);

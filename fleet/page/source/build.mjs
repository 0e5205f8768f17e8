// Builds the page into ../built: one script, one style sheet, one document. Nothing is loaded from elsewhere.
import { build } from "esbuild";
import { copyFile, mkdir } from "node:fs/promises";

const out = process.argv[2] ?? "../built";
await mkdir(out, { recursive: true });
await build({
  entryPoints: ["src/page.js"],
  outfile: `${out}/page.js`,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "eof",
  logLevel: "warning",
});
await copyFile("src/index.html", `${out}/index.html`);
await copyFile("src/page.css", `${out}/page.css`);

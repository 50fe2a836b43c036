/** A guide: marks the section that is being read, and colors code. */

import { colorCode } from "./colors.js";
import { byId } from "./page.js";
import { markSections } from "./spy.js";

markSections(byId("contents"));
colorCode(byId("main"));
byId("main").toggleAttribute("data-ready", true);

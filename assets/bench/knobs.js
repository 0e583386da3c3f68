// The page's fields as the bench sees them: stale pictures, live redraws, and what survives a
// reload.
const LIVE = '#nag_scale, #nag_tau, #nag_alpha, #nag_end';
const FAST = 8; // seconds that a NAG column may take to be drawn while a knob moves
let chosen = null; // of the switch Live, by the visitor
let waiting = null;

// The browser's own storage, not gr.BrowserState: that encrypts with a key of the server's process,
// so what it keeps is lost when the server is started again, and every change asks the server.
function store(name, text, where = 'localStorage') {
  try {
    window[where].setItem(name, text);
  } catch {
    /* a browser that keeps nothing */
  }
}
function stored(name, where = 'localStorage') {
  try {
    return window[where].getItem(name);
  } catch {
    return null;
  }
}

addEventListener('nag-settings', () => readSettings());
function readSettings() {
  if (!window.nagSettings || !element.isConnected) return;
  fields = settings();
  // what an icon does, for whoever points at it
  for (const icon of document.querySelectorAll('button.icon, #stop, #lock label'))
    icon.title ||= icon.textContent.trim();
  // text from right to left begins at the right
  for (const field of document.querySelectorAll('#prompt textarea, #negative textarea'))
    field.dir = 'auto';
  settle();
  if (restored) {
    store('nag-settings', JSON.stringify(fields));
    store('nag-settings', JSON.stringify(fields), 'sessionStorage');
  }
  redraw();
}

// After a reload the fields are as they were left in this tab, in a new tab as in the last one; a
// link that somebody sent is stronger, until it was opened: what is changed after that is one's
// own. Nothing is stored until they are back: a server that was just started answers late, and the
// next reload would find the page's own words.
const LATEST = 10000; // ms after which fields that did not come back are given up
let restoring = false;
let restored = false;
let wantedFields = null;
let link = null; // the fields that the address asked for, once the server has read it
let kept = null; // what this tab had in its fields when it was left
const afterwards = []; // what waits for the fields
function restore() {
  if (value().offline) return;
  const own = location.search === '' || location.search === stored('nag-link', 'sessionStorage');
  const left = own && (stored('nag-settings', 'sessionStorage') || stored('nag-settings'));
  try {
    kept = left ? { ...JSON.parse(left), fresh: false } : null;
  } catch {
    kept = null; // not ours
  }
  restoring = true;
  setTimeout(endRestoring, kept || named() ? LATEST : 1200);
  // a link's fields come anyhow, and would fall upon those that come before them
  if (!named()) bringBack();
  settle();
}

// Whether the address asks for settings.
function named() {
  return [...new URLSearchParams(location.search).keys()].some(key => NAMES.includes(key));
}

function bringBack() {
  if (!kept) return;
  wantedFields = kept;
  trigger('input', { set: kept, quiet: true });
}

function arrived(wanted) {
  return !!fields && NAMES.every(name => !(name in wanted) || same(fields[name], wanted[name]));
}

// The address is read first, then what was changed after that; the pictures of a link may come
// before its fields.
function settle() {
  if (!restoring || restored) return;
  if (wantedFields) {
    if (arrived(wantedFields)) endRestoring();
    return;
  }
  link = link || value().linked || null;
  if (!link || !arrived(link)) return;
  store('nag-link', location.search, 'sessionStorage');
  if (kept && !arrived(kept)) bringBack();
  else endRestoring();
}

function endRestoring() {
  if (restored) return;
  restored = true;
  wantedFields = null;
  afterwards.splice(0).forEach(one => one());
  readSettings();
  followLink();
}

// A link that was opened shows its own pictures, not the sample of other words or columns: where
// the model is at hand they are drawn; after a server was lost its bar offers that instead. Asked
// once, when the fields are there: what is typed or chosen later waits for Compare.
function followLink() {
  const now = value();
  const room = new URLSearchParams(location.search).get('room');
  if (room && tabOf(room)) {
    openRoom(room); // which has a button of its own
    return;
  }
  if (!link || !arrived(link) || !now.sample || !now.local || busy() || offersAgain()) return;
  const shown = now.cells.map(cell => cell.key).sort();
  if (staleColumns() || !same(shown, [...fields.guidance].sort())) setTimeout(pressCompare, 50);
}

const toggle = () => document.querySelector('#live input');
// What NAG took in this visit, of one model. The first one waits for a model that warms up, and
// what was kept, or drawn together with others, says nothing of this.
let timed = { preset: '', runs: [], seconds: [] };
function time() {
  const now = value();
  if (timed.preset !== now.preset) timed = { preset: now.preset, runs: [], seconds: [] };
  const cell = now.cells.find(one => one.key.includes('nag'));
  if (now.sample || busy() || !cell || !cell.alone || timed.runs.includes(now.run)) return;
  timed.runs.push(now.run);
  timed.seconds.push(cell.seconds);
}

// Seconds, where Live went off by itself: models that ship always follow the knob, others where the
// best of the last three pictures was soon there.
function slow() {
  if (value().shipped || chosen !== null || !toggle()) return 0;
  const last = timed.seconds.slice(1).slice(-3);
  const best = last.length ? Math.min(...last) : 0;
  return best > FAST ? best : 0;
}
function live() {
  const box = toggle();
  return !!box && (chosen === null ? !slow() : chosen);
}
function drawLive() {
  const box = toggle();
  if (box && box.checked !== live()) box.checked = live();
}

document.addEventListener('change', event => {
  if (!element.isConnected || !event.target.closest) return;
  if (event.target === toggle()) {
    chosen = event.target.checked;
    return;
  }
  if (!event.target.closest(LIVE) || !live()) return;
  clearTimeout(waiting);
  waiting = setTimeout(redrawNag, 180); // keys move a knob in many small steps
});

// Only where the pictures beside it are those of the settings, but for the one knob that is theirs
// alone: else it is a new comparison. In another room the knob is that room's.
function redrawNag() {
  if (!fields || !live() || !element.checkVisibility()) return;
  const others = value().cells.filter(cell => !cell.key.includes('nag') && cell.state === 'done');
  const beside = cell => changed(cell.made, fields).filter(name => name !== 'guidance_scale');
  if (others.some(cell => beside(cell).length)) return;
  if (!value().cells.some(cell => cell.state === 'done')) return;
  const nag = value().cells.find(cell => cell.key.includes('nag'));
  if (!busy() && nag && nag.state === 'done' && !changed(nag.made, fields).length) return;
  trigger('submit', {});
}

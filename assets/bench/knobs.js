// The page's fields as the bench sees them: stale pictures, live redraws, and what survives a
// reload.
const LIVE = '#nag_scale, #nag_tau, #nag_alpha, #nag_end';
const FAST = 2; // seconds that a NAG column may take to be drawn while a knob moves
let chosen = null;
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
  // text from right to left begins at the right
  for (const field of document.querySelectorAll('#prompt textarea, #negative textarea'))
    field.dir = 'auto';
  const names = Object.keys(wantedFields || {});
  if (names.length && names.every(name => same(fields[name], wantedFields[name]))) endRestoring();
  if (restored) followLink();
  if (restored) {
    store('nag-settings', JSON.stringify(fields));
    store('nag-settings', JSON.stringify(fields), 'sessionStorage');
  }
  redraw();
}

// After a reload the fields are as they were left in this tab, in a new tab as in the last one; a
// link that somebody sent is stronger. Nothing is stored until they are back: a server that was
// just started answers late, and the next reload would find the page's own words.
const LATEST = 10000; // ms after which fields that did not come back are given up
let restored = false;
let wantedFields = null;
const afterwards = []; // what waits for the fields
function restore() {
  if (value().offline) return;
  const own = location.search === '' || location.search === stored('nag-link', 'sessionStorage');
  const kept = own && (stored('nag-settings', 'sessionStorage') || stored('nag-settings'));
  try {
    wantedFields = kept ? { ...JSON.parse(kept), fresh: false } : null;
  } catch {
    wantedFields = null; // not ours
  }
  if (!wantedFields) {
    setTimeout(endRestoring, 1200);
    return;
  }
  trigger('input', { set: wantedFields, quiet: true });
  setTimeout(endRestoring, LATEST);
}

function endRestoring() {
  if (restored) return;
  restored = true;
  wantedFields = null;
  afterwards.splice(0).forEach(one => one());
  readSettings();
}

// A link that was opened shows its own pictures, not the sample of other words: where the model is
// at hand they are drawn, once; after a server was lost its bar offers that instead.
let followed = false;
function followLink() {
  const named = [...new URLSearchParams(location.search).keys()].some(key => NAMES.includes(key));
  if (followed || !named || !value().sample || !value().local || busy()) return;
  if (!staleColumns() || offersAgain()) return;
  followed = true;
  setTimeout(pressCompare, 50);
}

const toggle = () => document.querySelector('#live input');
function seconds() {
  const cell = value().cells.find(one => one.key === 'nag');
  return cell && cell.state === 'done' ? cell.seconds : null;
}
function quick() {
  const took = seconds();
  return took ? took < FAST : !!value().local;
}
function live() {
  const box = toggle();
  return !!box && (chosen === null ? quick() : chosen);
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

// Only where the pictures beside it are those of the settings: else it is a new comparison.
function redrawNag() {
  if (!fields || !live()) return;
  const others = value().cells.filter(cell => !cell.key.includes('nag') && cell.state === 'done');
  if (others.some(cell => changed(cell.made, fields).length) || !value().cells.length) return;
  const nag = value().cells.find(cell => cell.key.includes('nag'));
  if (!busy() && nag && nag.state === 'done' && !changed(nag.made, fields).length) return;
  trigger('submit', {});
}

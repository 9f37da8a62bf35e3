#include "capture/report_page.h"

namespace caisson::capture {
namespace {

// The page is drawn from the report's JSON by the script at its end; text is set, never
// parsed as HTML, since paths and answers are whatever an application makes of them.
constexpr const char* kBefore = R"html(<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Capture</title>
<style>
:root{color-scheme:light dark;--ink:#1d2433;--soft:#657089;--line:#dfe3ec;--paper:#fff;--field:#f5f6fa;--good:#1a7f4b;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9f2;--soft:#9aa4bb;--line:#2d3446;--paper:#161a24;--field:#1e2431;--good:#5ccf94;--bad:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:72rem;margin:2.5rem auto;padding:0 1.5rem}
h1{font-size:1.7rem;margin:0}h2{font-size:1.1rem;margin:2.5rem 0 .7rem}
.soft{color:var(--soft)}code{font:13px ui-monospace,monospace}
.cards{display:flex;flex-wrap:wrap;gap:1rem;margin:1.5rem 0}.card{background:var(--field);border-radius:.6rem;padding:.8rem 1.1rem;min-width:9rem}
.card b{display:block;font-size:1.35rem}.good{color:var(--good)}.bad{color:var(--bad)}
#map{position:relative;height:26rem;border-radius:.6rem;overflow:hidden;background:var(--field)}
#map div{position:absolute;box-sizing:border-box;border:1px solid var(--paper);overflow:hidden;font-size:11px;line-height:1.2;padding:2px 4px;color:#fff;cursor:default}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line)}th{color:var(--soft);font-weight:500}
td.n{text-align:right;white-space:nowrap}input{font:inherit;padding:.4rem .7rem;width:22rem;max-width:100%;border:1px solid var(--line);border-radius:.4rem;background:var(--field);color:inherit}
pre{background:var(--field);padding:.6rem .8rem;border-radius:.5rem;overflow:auto;max-height:14rem;white-space:pre-wrap;font:12px ui-monospace,monospace}
</style>
<h1 id="name"></h1><div class="soft"><code id="command"></code></div>
<div class="cards" id="cards"></div>
<div id="verification"></div>
<div id="secrets"></div>
<h2>Where the space goes</h2><div class="soft">By package; files that no package owns by their rule.</div><p></p><div id="map"></div>
<div id="warnings"></div>
<h2>Every file and its reason</h2><input id="filter" placeholder="Filter by path, package or reason"><p></p>
<table><thead><tr><th>Path<th>Why<th>Rule<th>Package<th>Size</tr></thead><tbody id="files"></tbody></table><p class="soft" id="more"></p>
<script type="application/json" id="report">)html";

constexpr const char* kAfter = R"html(</script>
<script>
const r=JSON.parse(document.getElementById('report').textContent),$=id=>document.getElementById(id);
const el=(tag,text,cls)=>{const e=document.createElement(tag);if(text!==undefined)e.textContent=text;if(cls)e.className=cls;return e};
const size=n=>n<1e3?n+' B':n<1e6?(n/1e3).toFixed(n<1e4?1:0)+' kB':n<1e9?(n/1e6).toFixed(1)+' MB':(n/1e9).toFixed(2)+' GB';
document.title=r.name+' · capture';$('name').textContent=r.name;$('command').textContent=r.command.join(' ')+'   ('+r.command_from+')';
const files=r.files.filter(f=>f.type==='file');
const card=(value,label,cls)=>{const c=el('div','','card');c.append(el('b',value,cls),el('span',label,'soft'));$('cards').append(c)};
const v=r.verification||{result:'not checked'};
card(v.result,'verification',v.result==='passed'?'good':v.result==='differs'?'bad':'');
card(size(r.bytes),'in the image');card(String(files.length),'files');card(String(Object.keys(r.packages||{}).length),'packages used');
card(String(r.secrets.length+r.secret_variables.length),'secrets left out');
const section=(id,title)=>{$(id).append(el('h2',title))};
if(v.summary){section('verification','Verification');$('verification').append(el('p',v.summary+'.'+(v.read_only?' The root was read-only.':'')+(v.confined?' It had only the capabilities that it was seen to use ('+(r.confinement.capabilities.join(', ')||'none')+'), and system calls of the kinds it was seen to make.':'')+(v.rounds>1?' It took '+v.rounds+' rounds; '+v.repaired.length+' paths were added.':'')));
 if((v.requests||[]).length){const t=el('table');for(const q of v.requests){const row=el('tr');row.append(el('td',q.same?'same':'differs',q.same?'good':'bad'));const what=el('td');what.append(el('code',(q.port?':'+q.port+'  ':'')+q.request));
  if(!q.same){what.append(el('div','original','soft'),el('pre',q.original),el('div','capture','soft'),el('pre',q.capture))}row.append(what);t.append(row)}$('verification').append(t)}}
if(r.secrets.length+r.secret_variables.length){section('secrets','Secrets that were left out');const t=el('table');for(const s of r.secrets){const row=el('tr');const p=el('td');p.append(el('code',s.path));row.append(p,el('td',s.why));t.append(row)}
 for(const s of r.secret_variables){const row=el('tr');const p=el('td');p.append(el('code',s));row.append(p,el('td','environment variable'));t.append(row)}$('secrets').append(t)}
if(r.warnings.length){section('warnings','Worth knowing');const l=el('ul');for(const w of r.warnings)l.append(el('li',w));$('warnings').append(l)}
// A squarified treemap (Bruls, Huizing, van Wijk): rows of nearly square boxes.
const groups={};for(const f of files){const k=f.package||'('+f.rule+')';(groups[k]=groups[k]||{name:k,value:0,files:0});groups[k].value+=f.size||0;groups[k].files++}
function squarify(items,x,y,w,h,draw){items=items.filter(i=>i.value>0).sort((a,b)=>b.value-a.value);let total=items.reduce((s,i)=>s+i.value,0);let i=0;
 while(i<items.length&&w>1&&h>1){const side=Math.min(w,h),scale=w*h/total;let row=[],sum=0,worst=Infinity;
  while(i+row.length<items.length){const next=items[i+row.length].value,s=sum+next,thick=s*scale/side;let bad=0;for(const q of row.concat([items[i+row.length]])){const len=q.value*scale/thick;bad=Math.max(bad,len/thick,thick/len)}if(bad>worst)break;worst=bad;row.push(items[i+row.length]);sum=s}
  const thick=sum*scale/side;let at=0;for(const q of row){const len=q.value*scale/thick;w<h?draw(q,x+at,y,len,thick):draw(q,x,y+at,thick,len);at+=len}
  if(w<h){y+=thick;h-=thick}else{x+=thick;w-=thick}total-=sum;i+=row.length}}
const map=$('map');let hue=0;
squarify(Object.values(groups),0,0,map.clientWidth,map.clientHeight,(g,x,y,w,h)=>{const d=el('div',w>40&&h>14?g.name:'');d.title=g.name+'\n'+size(g.value)+' in '+g.files+' files';hue=(hue+47)%360;d.style.cssText=`left:${x}px;top:${y}px;width:${w}px;height:${h}px;background:hsl(${hue} 42% 42%)`;map.append(d)});
const most=500;function list(){const q=$('filter').value.toLowerCase(),found=r.files.filter(f=>!q||(f.path+' '+f.reason+' '+f.rule+' '+(f.package||'')).toLowerCase().includes(q));const body=$('files');body.textContent='';
 for(const f of found.slice(0,most)){const row=el('tr'),p=el('td');p.append(el('code',f.path));row.append(p,el('td',f.reason+(f.origin==='copied'?'':' ('+f.origin+')')),el('td',f.rule),el('td',f.package||''),el('td',f.size===undefined?f.type:size(f.size),'n'));body.append(row)}
 $('more').textContent=found.length>most?(found.length-most)+' more: filter to see them':''}
$('filter').addEventListener('input',list);list();
</script></html>
)html";

}  // namespace

std::string report_page(const std::string& name, const Json& report) {
  Json document = report;
  document["name"] = name;
  std::string text = json_text(document), safe;
  // "</script>" in a path or an answer must not end the data.
  for (char c : text)
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  return kBefore + safe + kAfter;
}

}  // namespace caisson::capture
